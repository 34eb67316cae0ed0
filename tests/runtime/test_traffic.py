"""What an evaluation and a block's decoding move and launch beside products, counted: it must not creep back up."""

from dataclasses import replace

import pytest

from benchmarks import traffic
from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.dit.placement import ON_DEVICE


def counted(layers: int, voiced: tuple[int, ...]) -> tuple[float, int]:
    """GB and kernels of an evaluation at 688x368 of so many layers of the 14B model's, of which some hear the voice."""
    config = replace(WAN_S2V_14B, num_layers=layers, audio_inject_layers=voiced)
    found = traffic.evaluation(ON_DEVICE, config=config)
    return found.gigabytes, found.count


@pytest.fixture(scope="module")
def whole() -> tuple[float, float]:
    """Of the 14B model, whose layers are all alike: 40 of them, 12 with the voice."""
    one, two, voiced = counted(1, ()), counted(2, ()), counted(2, (0,))
    layers, voices = WAN_S2V_14B.num_layers, len(WAN_S2V_14B.audio_inject_layers)
    gigabytes, kernels = (
        a + (layers - 1) * (b - a) + voices * (c - b) for a, b, c in zip(one, two, voiced, strict=True)
    )
    return gigabytes, kernels


def test_an_evaluation(whole):
    gigabytes, kernels = whole
    assert gigabytes <= 87.4 and kernels <= 988


def test_decoding_a_block():
    found = traffic.decoding()
    assert found.gigabytes <= 64 and found.count <= 534
