"""One table of time arithmetic, which the runtime and the page's module compute alike."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from page_modules import evaluate

from liveavatar_runtime import duration as time
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.planning.estimates import estimate_text, file_rates, making_time
from liveavatar_runtime.planning.ranges import Range
from liveavatar_runtime.sampling.plan_request import PlanRequest

CASES: dict[str, list[tuple[list[Any], Any]]] = json.loads(
    (Path(__file__).parent / "time_cases.json").read_text(encoding="utf-8")
)
"""Function -> (what it gets, what it gives) of every case; fractions are texts, None is refused or not known."""

OF_ESTIMATES = ("making_time", "file_text")
"""What web/estimates.js computes."""
ESTIMATES_IN_JAVASCRIPT = """
    const range = ([low, likely, high]) => ({ low, likely, high });
    const calls = {
        making_time: (frames, fps, first) => m.estimateText(m.makingTime(frames, range(fps), range(first))),
        file_text: (frames, rates, seconds) => m.fileText(rates, frames, seconds),
    };
    return given.map(([name, values]) => calls[name](...values));
"""
IN_JAVASCRIPT = """
    const text = (a) => a && m.fractionText(a);
    const calls = {
        parse_fps: (value) => text(m.parseFps(value)),
        parse_seconds: (value) => text(m.parseSeconds(value)),
        parse_hms: (value) => text(m.parseHms(value)),
        duration: (clips, frames, fps) => text(m.secondsOf(clips * frames, m.exact(fps))),
        clips_for_duration: (seconds, frames, fps) => m.clipsForDuration(m.exact(seconds), frames, m.exact(fps)),
        clips_for_frames: m.clipsForFrames,
        frames_for_samples: (samples, fps, rate) => m.framesForSamples(samples, m.exact(fps), rate),
        format_fps: (fps) => m.formatFps(m.exact(fps)),
        format_hms: (seconds) => m.formatHms(m.exact(seconds)),
        format_estimate: (seconds) => m.formatEstimate(seconds),
        format_duration: (seconds) => m.formatDuration(m.exact(seconds)),
        plan: (numClip, inferFrames, rate, end, segmentClips, segmentIndex, voice) => {
            const request = { numClip, inferFrames, fps: m.exact(rate), end, segmentClips, segmentIndex };
            const plan = m.planFor(request, voice && { samples: voice[0], sampleRate: voice[1] });
            return plan && {
                clips: plan.clips,
                frames: plan.frames,
                seconds: text(m.secondsOf(plan.frames, request.fps)),
                segment: plan.segment && [plan.segment.first, plan.segment.last, plan.segment.frames],
            };
        },
    };
    return given.map(([name, values]) => calls[name](...values));
"""


def plan(*values: Any) -> dict[str, Any] | None:
    """As the table has it."""
    num_clip, infer_frames, fps, end, length, index, voice = values
    if num_clip == 0 and voice is None:
        return None
    request = PlanRequest.of(num_clip, end, infer_frames=infer_frames, fps=Fraction(fps))
    frames = voice and time.frames_for_samples(voice[0], Fraction(fps), voice[1])
    made = request.plan if frames is None else request.for_voice(frames)
    shown = {"clips": made.num_clip, "frames": made.frames, "seconds": str(made.duration)}
    try:
        part = replace(made, segment_clips=length, segment_index=index).segment
    except InputError:
        return {**shown, "segment": None}
    return {**shown, "segment": [part.clips.start + 1, part.clips.stop, part.frames]}


IN_PYTHON: dict[str, Callable[..., object]] = {
    "parse_fps": time.parse_fps,
    "parse_seconds": time.parse_seconds,
    "parse_hms": time.parse_hms,
    "duration": lambda clips, frames, fps: time.duration(clips, frames, Fraction(fps)),
    "clips_for_duration": lambda seconds, frames, fps: time.clips_for_duration(
        Fraction(seconds), frames, Fraction(fps)
    ),
    "clips_for_frames": time.clips_for_frames,
    "frames_for_samples": lambda samples, fps, rate: time.frames_for_samples(samples, Fraction(fps), rate),
    "format_fps": lambda fps: time.format_fps(Fraction(fps)),
    "format_hms": lambda seconds: time.format_hms(Fraction(seconds)),
    "format_estimate": time.format_estimate,
    "making_time": lambda frames, fps, first: estimate_text(making_time(frames, Range(*fps), Range(*first))),
    "file_text": lambda frames, width, height, seconds: file_rates(width, height).text(frames, seconds),
    "format_duration": lambda seconds: time.format_duration(Fraction(seconds)),
    "plan": plan,
}


@pytest.mark.parametrize("name", CASES)
def test_the_runtime_computes_the_table(name: str):
    for given, expected in CASES[name]:
        try:
            result = IN_PYTHON[name](*given)
        except InputError:
            result = None
        assert (str(result) if isinstance(result, Fraction) else result) == expected, f"{name}{tuple(given)}"


def test_the_page_computes_the_table():
    compared("time.js", IN_JAVASCRIPT, CASES.keys() - set(OF_ESTIMATES))
    compared("estimates.js", ESTIMATES_IN_JAVASCRIPT, set(OF_ESTIMATES))


def compared(module: str, script: str, names: set[str]) -> None:
    """Asserts that a module of the page gives what the table has for these functions."""
    cases = [(name, values, result) for name in names for values, result in CASES[name]]
    given = [(name, in_page(name, values)) for name, values, _ in cases]
    found = evaluate(module, script, given)
    assert isinstance(found, list)
    for (name, values, expected), result in zip(cases, found, strict=True):
        assert result == expected, f"{name}{tuple(values)}"


def in_page(name: str, values: list[Any]) -> list[Any]:
    """The page gets a file's rates from the server."""
    if name != "file_text":
        return values
    frames, width, height, seconds = values
    return [frames, asdict(file_rates(width, height)), seconds]
