"""States that are kept in fp8: how near they are, what they take, and how a video goes on from them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from spooled_video import CONFIG, PLAN, STATE_BYTES, Sampling, latents_of, stream_of
from torch import Tensor

from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.planning.memory import ring_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.spool.spool import LATENTS, InexactStart, Spool
from liveavatar_runtime.spool.states import StateSettings, StateSizes, rings_from_fp8, rings_in_fp8

FP8_BYTES = ring_bytes(Workload(CONFIG, PLAN, torch.float32), Placement(kv_dtype="fp8"))
# Too large to be kept after every clip.
BIG_FP8 = StateSettings(2**27, 2**28, fp8=True)

NONE_FIT = StateSettings(2**28, 2**27)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Tensor:
    """Latents of an uninterrupted run."""
    return latents_of(stream_of(Sampling(), tmp_path_factory.mktemp("whole") / "spool"))


def interrupted(folder: Path, block: int, states: StateSettings = BIG_FP8, **plan: int) -> None:
    with pytest.raises(InterruptedError):
        latents_of(stream_of(Sampling(stop_at=(block, 1)), folder, replace(PLAN, **plan), states=states))


def distance(a: Tensor, b: Tensor) -> float:
    return (a - b).norm().item() / b.norm().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rings_in_fp8_are_near_and_have_the_planned_size(dtype):
    generator = torch.Generator().manual_seed(0)
    rings = {f"step.0.layer.{n}.keys": torch.randn(96, 2, 128, generator=generator).to(dtype) for n in range(3)}
    rings["step.0.layer.1.keys"][5, 1, 7] = 100
    kept = rings_in_fp8(rings)
    assert sum(tensor.nbytes for tensor in kept.values()) == 3 * 96 * 2 * (128 + 4)
    found = rings_from_fp8(kept)
    assert found.keys() == rings.keys()
    for name, ring in rings.items():
        largest = ring.float().abs().amax(dim=-1, keepdim=True)
        allowed = ring.float().abs() / 16 + largest / 1000
        assert found[name].dtype == dtype
        assert ((found[name].float() - ring.float()).abs() <= allowed * (1 + torch.finfo(dtype).eps)).all()


@pytest.mark.parametrize(
    ("exact", "budget", "choice", "size", "fp8"),
    [
        (100, 100, "auto", 100, False),
        (100, 60, "auto", 52, True),
        (100, 50, "auto", 100, False),
        (100, 50, "fp8", 52, True),
        (100, 60, "model", 100, False),
        (52, 20, "fp8", 52, False),
    ],
)
def test_the_choice(exact, budget, choice, size, fp8):
    settings = StateSettings.choose(StateSizes(exact, 52), budget, choice)
    assert (settings.size, settings.budget, settings.fp8) == (size, budget, fp8)


def test_an_interruption_goes_on_almost_as_it_would_have(folder, whole):
    interrupted(folder, 11)
    assert Spool(folder).states() == [11] and Spool(folder).is_fp8(11)
    kept = load_file(folder / "state-0000011-fp8.safetensors")
    assert sum(tensor.nbytes for name, tensor in kept.items() if name != LATENTS) == FP8_BYTES < STATE_BYTES / 3
    sampling, said = Sampling(), []
    latents = latents_of(stream_of(sampling, folder, states=BIG_FP8, say=said.append))
    assert sampling.first_blocks == [11] and "in fp8" in said[0]
    assert torch.equal(latents[:, :33], whole[:, :33]) and 0 < distance(latents[:, 33:], whole[:, 33:]) < 0.005


def test_near_the_beginning_it_goes_back_to_be_exact(folder, whole):
    interrupted(folder, 6)
    sampling = Sampling()
    assert torch.equal(latents_of(stream_of(sampling, folder, states=BIG_FP8)), whole)
    assert sampling.first_blocks == [0]


@pytest.mark.parametrize("block", [12, 13])
@pytest.mark.parametrize("kept", [True, False])
def test_a_damaged_clip_after_it_is_made_again_as_it_was(folder, block, kept):
    interrupted(folder, block)
    made = latents_of(stream_of(Sampling(), folder, states=BIG_FP8))
    spool = Spool(folder)
    assert spool.states() == [block] and spool.inexact_starts() == [InexactStart(block, from_fp8=True)]
    (folder / "clip-000007.safetensors").unlink()
    if not kept:
        spool.remove_state(block)
    said = []
    again = latents_of(stream_of(Sampling(), folder, states=BIG_FP8, say=said.append))
    assert torch.equal(again[:, :42], made[:, :42]) and torch.equal(again, made) == kept
    assert ("warm-up" in said[-1]) != kept
    assert spool.last_inexact_start(99) == (InexactStart(block, from_fp8=True) if kept else InexactStart(14))


@pytest.mark.parametrize(("states", "block"), [(BIG_FP8, 8), (BIG_FP8, 9), (NONE_FIT, 8)])
def test_clips_on_both_sides_of_a_beginning_are_made_again_as_they_were(folder, states, block):
    interrupted(folder, block, states)
    made = latents_of(stream_of(Sampling(), folder, states=states))
    for clip in (3, 4):
        (folder / f"clip-{clip:06}.safetensors").unlink()
    sampling = Sampling()
    assert torch.equal(latents_of(stream_of(sampling, folder, states=states)), made)
    assert sampling.first_blocks == [0, block]


@pytest.mark.parametrize("states", [BIG_FP8, NONE_FIT])
def test_an_exact_state_that_the_video_did_not_go_on_from_is_not_taken(folder, states):
    interrupted(folder, 8, states)
    made = latents_of(stream_of(Sampling(), folder, states=states))
    exact = replace(states, size=STATE_BYTES, budget=2**30, fp8=False)
    for clip in (3, 4):
        # Making clip 3 again gives an exact state before block 8, from which clip 4 was not made.
        (folder / f"clip-{clip:06}.safetensors").unlink()
        assert torch.equal(latents_of(stream_of(Sampling(), folder, states=exact)), made)
        assert 6 in Spool(folder).states() and 8 in Spool(folder).states()


def test_segments_go_on_from_it(folder, whole):
    parts = [
        latents_of(stream_of(Sampling(), folder, replace(PLAN, segment_clips=4, segment_index=index), states=BIG_FP8))
        for index in (0, 1)
    ]
    assert torch.equal(parts[0], whole[:, :24]) and 0 < distance(parts[1], whole[:, 24:]) < 0.005
    assert Spool(folder).inexact_starts() == [InexactStart(8, from_fp8=True)]
    replayed = Sampling()
    assert torch.equal(latents_of(stream_of(replayed, folder)), torch.cat(parts, dim=1)) and not replayed.starts


def test_an_exact_state_is_preferred(folder, whole):
    latents_of(stream_of(Sampling(), folder, replace(PLAN, num_clip=4)))
    spool = Spool(folder)
    assert spool.try_lock()
    state = spool.read_state(8)
    assert state is not None and not spool.is_fp8(8)
    spool.write_state(state, fp8=True)
    assert spool.states().count(8) == 1 and not spool.is_fp8(8)
    spool.unlock()
    assert torch.equal(latents_of(stream_of(Sampling(), folder)), whole)
