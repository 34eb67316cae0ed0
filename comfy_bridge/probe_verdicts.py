"""What Hardware Probe says of a machine: each finding against what is good for this model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from liveavatar_runtime.run_report import UNEVEN
from liveavatar_runtime.texts import gib, seconds_text, size_text

from .notes import Notes

if TYPE_CHECKING:
    from liveavatar_runtime.planning.links import Link
    from liveavatar_runtime.run_report import Peak, RunReport

GOOD_FIRST_BLOCK, BAD_FIRST_BLOCK = 5.0, 8.0
"""Seconds until the first block: below the first a card suits this model, above the second it does not."""
GB = 1e9


def tell_run(report: "RunReport", notes: Notes) -> None:
    """How fast it ran, and how evenly."""
    video, times = report.video, report.times
    size, took = f"{video.width}x{video.height}", seconds_text(times.seconds - times.preparing)
    before = seconds_text(times.preparing)
    notes.tell(
        f"It runs: {video.clips} clips of {size} in {took}, {report.realtime or 0:.2f}x real time, after {before} of "
        "preparing the decoder"
    )
    if report.first_block is not None:
        _tell_first(report.first_block, notes)
    each = report.sampled.each
    if each is not None:
        _tell_evenness(each.variation, notes)
    notes.tell(times.sentence())


def _tell_first(seconds: float, notes: Notes) -> None:
    took = f"First block after {seconds_text(seconds)}, with the model brought to its device"
    if seconds <= GOOD_FIRST_BLOCK:
        notes.tell(f"{took}: good (5 s or less)")
    elif seconds <= BAD_FIRST_BLOCK:
        notes.tell(f"{took}: fair (5 to 8 s)")
    else:
        notes.warn(
            f"{took}: slow (more than 8 s). Run it once more with the model loaded; if it stays slow, use a smaller "
            "size, fp8 weights or another card for this model"
        )


def _tell_evenness(variation: float, notes: Notes) -> None:
    if variation <= UNEVEN:
        notes.tell(f"Block times vary by {variation:.0%}: even (15% or less)")
        return
    notes.warn(
        f"Block times vary by {variation:.0%}, more than 15%: another program works beside, the card is too hot, or "
        "its memory is nearly full. Predictions are as uncertain"
    )


def tell_memory(peaks: "Sequence[Peak]", planned: Mapping[str, float], notes: Notes) -> None:
    """The most that was taken of each device, beside what the planner had expected of cards."""
    for peak in peaks:
        used, total = size_text(peak.used), gib(peak.total)
        if peak.device == "cpu":
            notes.tell(f"RAM: ComfyUI took {used} at most, this machine has {total}")
        elif peak.device in planned:
            notes.tell(
                f"{peak.device} ({peak.name}): at most {used} of {total} taken, {gib(planned[peak.device])} planned"
            )
        else:
            notes.tell(f"{peak.device} ({peak.name}): at most {used} of {total} taken")


def tell_links(links: "Sequence[Link]", has_nccl: bool, notes: Notes) -> None:
    """How fast cards get what they need; nothing without a card."""
    notes.tell(*_with_ram(links))
    between = [link for link in links if link.direct is not None]
    for link in between:
        way = "directly" if link.direct else "by way of RAM"
        notes.tell(f"{link.source} to {link.target}: {link.rate / GB:.1f} GB/s, {way}")
    if between and has_nccl:
        notes.tell("NCCL is there: fsdp can be used")
    elif between:
        notes.warn("This PyTorch has no NCCL, which fsdp needs; layer_pipeline and timestep_pipeline work without it")


def _with_ram(links: "Sequence[Link]") -> Iterator[str]:
    back = {link.source: link.rate for link in links if link.target == "cpu"}
    for link in links:
        if link.source == "cpu":
            there, returned = link.rate / GB, back[link.target] / GB
            yield f"Pinned memory to {link.target}: {there:.1f} GB/s, back {returned:.1f} GB/s"
