"""What Hardware Probe says of what it measured: every bound on both sides."""

import importlib
from types import ModuleType
from typing import Any

import pytest

from liveavatar_runtime.distribution import Distribution
from liveavatar_runtime.planning.links import Link
from liveavatar_runtime.run_report import MadeVideo, Peak, RunReport, Sampled
from liveavatar_runtime.stage_times import VideoTimes

GIB = 2**30


@pytest.fixture
def verdicts(pack: ModuleType) -> Any:
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.probe_verdicts")


@pytest.fixture
def notes(pack: ModuleType) -> Any:
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.notes").Notes()


def report(first: float, blocks: list[float]) -> RunReport:
    now = [0.0]
    times, each = VideoTimes(lambda: now[0]), Distribution()
    for seconds in blocks:
        each.add(seconds)
    times.preparing, times.first_block, times.ended = 2.0, 2.0 + first, 90.0
    video = MadeVideo(
        file="probe.mp4", clips=10, infer_frames=36, width=384, height=256, frames=360, wanted_frames=360, seconds=22.5
    )
    return RunReport(
        ended="finished",
        date="",
        video=video,
        settings={},
        versions={},
        times=times,
        sampled=Sampled(blocks=len(blocks) + 1, first_block=first, each=each.summary()),
    )


@pytest.mark.parametrize(("first", "says"), [(4.9, "good"), (5.1, "fair"), (7.9, "fair"), (8.1, "slow")])
def test_the_first_block_against_both_bounds(verdicts, notes, first, says) -> None:
    verdicts.tell_run(report(first, [3.0] * 9), notes)
    (line,) = [line for line in notes.lines if "First block" in line]
    assert f": {says} (" in line and line.startswith("⚠") == (says == "slow")
    assert "It runs: 10 clips of 384x256 in 88.0 s, 0.26x real time, after 2.0 s of preparing" in "\n".join(notes.lines)


@pytest.mark.parametrize(("off", "warned"), [(0.14, False), (0.16, True)])
def test_blocks_that_vary_by_more_than_15_percent_are_warned_of(verdicts, notes, off, warned) -> None:
    verdicts.tell_run(report(4.0, [3.0 * (1 - off), 3.0 * (1 + off)] * 5), notes)
    (line,) = [line for line in notes.lines if "Block times vary" in line]
    assert line.startswith("⚠ ") == warned and f"{off:.0%}" in line


def test_memory_stands_beside_the_plan_where_there_is_one(verdicts, notes) -> None:
    peaks = [
        Peak(device="cuda:0", name="RTX 4090", used=19 * GIB, total=24 * GIB),
        Peak(device="cuda:1", name="RTX 4090", used=5 * GIB, total=24 * GIB),
        Peak(device="cpu", name="a processor", used=8 * GIB, total=64 * GIB),
    ]
    verdicts.tell_memory(peaks, {"cuda:0": 20.0 * GIB}, notes)
    assert notes.lines == [
        "cuda:0 (RTX 4090): at most 19.0 GiB of 24.0 GiB taken, 20.0 GiB planned",
        "cuda:1 (RTX 4090): at most 5.0 GiB of 24.0 GiB taken",
        "RAM: ComfyUI took 8.0 GiB at most, this machine has 64.0 GiB",
    ]


@pytest.mark.parametrize("nccl", [True, False])
def test_links_between_cards_and_nccl(verdicts, notes, nccl) -> None:
    links = [
        Link(source="cpu", target="cuda:0", rate=24.14e9),
        Link(source="cuda:0", target="cpu", rate=25.06e9),
        Link(source="cuda:0", target="cuda:1", rate=20e9, direct=True),
        Link(source="cuda:1", target="cuda:0", rate=6e9, direct=False),
    ]
    verdicts.tell_links(links, nccl, notes)
    told = notes.lines
    assert "Pinned memory to cuda:0: 24.1 GB/s, back 25.1 GB/s" in told
    assert {"cuda:0 to cuda:1: 20.0 GB/s, directly", "cuda:1 to cuda:0: 6.0 GB/s, by way of RAM"} <= set(told)
    assert any("NCCL" in line and line.startswith("⚠") != nccl for line in told)


def test_one_card_alone_needs_no_nccl(verdicts, notes) -> None:
    verdicts.tell_links([], False, notes)
    assert not notes.lines
