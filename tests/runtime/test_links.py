"""Copies between RAM and cards: how a rate is taken, and that a machine without a card has none."""

import pytest
import torch

from liveavatar_runtime.planning.links import COPIED, ROUNDS, has_nccl, links_of, rate


def test_a_machine_without_a_card_has_no_links():
    assert links_of([torch.device("cpu"), torch.device("cpu")]) == []


def test_the_rate_is_that_of_the_best_copy():
    seconds, now = iter([0.5, 0.1, 0.3, 0.2, 0.4]), [0.0]
    copies = []

    def copy() -> None:
        copies.append(1)
        now[0] += next(seconds)

    found = rate(copy, [torch.device("cpu")], lambda: now[0])
    assert found == pytest.approx(COPIED / 0.1) and len(copies) == ROUNDS


def test_nccl_is_what_pytorch_says():
    assert has_nccl() == (torch.distributed.is_available() and torch.distributed.is_nccl_available())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_a_card_and_pinned_memory():
    there, back = links_of([torch.device("cuda:0")])
    assert (
        (there.source, there.target, back.target) == ("cpu", "cuda:0", "cpu") and there.rate > 1e9 and back.rate > 1e9
    )
