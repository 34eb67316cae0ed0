"""What motion strength does to the demo's mouth and head: `python -m benchmarks.motion_strength`.

Each way is tried with several values, on people, voices and prompts that the model was not trained on: the factor of
what the voice adds to the hidden states (`motion_strength` of DiT Sampler), the distance of the sink
(`relative_distance` of Clip Scheduler), and both together. Writes results/motion_strength.md and
docs/images/motion_strength.png.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks import ROOT, measures
from benchmarks.quality import CLIP, FPS, RATE, Demo, Scene, generate, measure, prepared, scene
from benchmarks.speed.report import machine
from demo.training.portraits import Pose, draw
from liveavatar_runtime.media.lettering import length_of, write
from liveavatar_runtime.run_report import markdown_table
from liveavatar_runtime.sampling.script import Script

RESULT = ROOT / "benchmarks" / "results" / "motion_strength.md"
PICTURE = ROOT / "docs" / "images" / "motion_strength.png"
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
DISTANCES = (5, 11, 17, 23, 29)
BOTH = (0.5, 0.75, 1.5)
"""Strengths that are tried with a distance as well, nearer where calmer: 17 * strength."""
CLIPS, LEARNED_DISTANCE = 2, 17
HEAD = (slice(4, 36), slice(10, 54))
"""Where, in a picture of 64 x 64, the upper part of the head moves and the mouth does not."""
SYNC, IDENTITY_LOSS, SHUT = 0.8, 2.0, 0.25
"""Lip sync below which a value is out of bounds, dB of likeness that it may lose, and how far the mouth may be open in
silence, as a part of loud parts."""


@dataclass(frozen=True)
class Way:
    strength: float = 1.0
    distance: int = LEARNED_DISTANCE


@dataclass(frozen=True)
class Moved:
    """Means over people: opening of the mouth in loud parts and where nobody speaks, in levels of brightness; movement
    of the head in pixels; lip sync; likeness of still parts in dB."""

    mouth: float
    shut: float
    head: float
    sync: float
    identity: float


def moved(demo: Demo, what: Scene, way: Way) -> Moved:
    ready = prepared(demo, what, CLIPS)
    plan = replace(ready.plan, script=Script(motion=way.strength), relative_distance=way.distance)
    frames = generate(demo, replace(ready, plan=plan))
    opening = measures.mouth_opening(frames, draw(what.person, Pose()))
    energy = measures.frame_energy(what.voice[0].numpy(), RATE, float(FPS), len(frames))
    loud, silent = energy > np.quantile(energy, 0.75), energy < 0.02 * energy.max()
    figures = measure(what, frames)
    shut = float(opening[silent].mean()) if silent.sum() > 3 else float("nan")
    return Moved(float(opening[loud].mean()), shut, head_movement(frames), figures.sync, figures.identity)


def head_movement(frames: np.ndarray) -> float:
    """Pixels: standard deviation of where the upper part of the head is."""
    grey = measures.luma(frames)[(slice(None), *HEAD)].astype(np.float32)
    middle = np.median(grey, axis=0)
    window = cv2.createHanningWindow(middle.shape[::-1], cv2.CV_32F)
    places = np.array([cv2.phaseCorrelate(middle, frame, window)[0] for frame in grey])
    return float(np.sqrt(places.var(axis=0).sum()))


def mean_of(results: Sequence[Moved]) -> Moved:
    return Moved(*np.nanmean([list(vars(result).values()) for result in results], axis=0).tolist())


def rises(values: Sequence[float]) -> bool:
    return all(later > earlier for earlier, later in zip(values, values[1:], strict=False))


def table(name: str, rows: dict[str, Moved]) -> str:
    head = (name, "mouth in loud parts", "mouth in silence", "head (pixels)", "lip sync", "likeness")
    return markdown_table(
        head,
        [
            (value, f"{m.mouth:.1f}", f"{m.shut:.1f}", f"{m.head:.2f}", f"{m.sync:.3f}", f"{m.identity:.1f} dB")
            for value, m in rows.items()
        ],
    )


def bounds(by_strength: dict[float, Moved]) -> tuple[float, float]:
    """The largest range around 1 in which the mouth opens further with every value, and the video holds."""
    learned, values = by_strength[1.0], sorted(by_strength)

    def holds(value: float) -> bool:
        found = by_strength[value]
        holds = found.sync >= SYNC and found.identity >= learned.identity - IDENTITY_LOSS
        return holds and found.shut <= SHUT * found.mouth

    place = values.index(1.0)
    low = high = place
    while low > 0 and holds(values[low - 1]) and by_strength[values[low - 1]].mouth < by_strength[values[low]].mouth:
        low -= 1
    while (
        high + 1 < len(values)
        and holds(values[high + 1])
        and by_strength[values[high + 1]].mouth > by_strength[values[high]].mouth
    ):
        high += 1
    return values[low], values[high]


def drawn(curves: dict[str, tuple[Sequence[float], dict[str, list[float]]]]) -> Image.Image:
    """A panel for each way: mouth and head against the value, as parts of what the learned value gives."""
    width, height, gap = 420, 300, 70
    picture = Image.new("RGB", (gap + len(curves) * (width + gap), height + 190), "#ffffff")
    pen = ImageDraw.Draw(picture)
    colours = {"mouth": "#3b6fb5", "head": "#e08a1e", "lip sync": "#4a9d8e"}
    for number, (name, (values, lines)) in enumerate(curves.items()):
        left, top = gap + number * (width + gap), 60
        write(picture, (left, 18), name, 20, "#1c2530")
        most = max(max(line) for line in lines.values()) * 1.05
        pen.rectangle((left, top, left + width, top + height), outline="#c0c8d0")
        for level in np.arange(0, most, 0.5):
            y = top + height - height * level / most
            pen.line((left, y, left + width, y), fill="#e6eaee")
            write(picture, (left - 36, y - 9), f"{level:g}x", 16, "#5b6875")
        x = [left + width * (value - values[0]) / (values[-1] - values[0]) for value in values]
        for value, place in zip(values, x, strict=True):
            label = f"{value:g}"
            write(picture, (place - length_of(label, 15) / 2, top + height + 8), label, 15, "#5b6875")
        for line, course in lines.items():
            points = [(a, top + height - height * b / most) for a, b in zip(x, course, strict=True)]
            pen.line(points, fill=colours[line], width=3)
            for a, b in points:
                pen.ellipse((a - 4, b - 4, a + 4, b + 4), fill=colours[line])
    x = float(gap)
    for line, colour in colours.items():
        pen.rectangle((x, height + 120, x + 18, height + 138), fill=colour)
        text = f"{line}, 1x as with the learned value" if line == "mouth" else line
        write(picture, (x + 26, height + 117), text, 18, "#1c2530")
        x += 60 + length_of(text, 18)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "demo" / "liveavatar-demo")
    parser.add_argument("--people", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo = Demo.load(arguments.bundle)
    scenes = [scene(500 + number, CLIPS * CLIP / float(FPS)) for number in range(arguments.people)]

    def tried(way: Way) -> Moved:
        found = mean_of([moved(demo, what, way) for what in scenes])
        print(way, found, flush=True)
        return found

    by_strength = {value: tried(Way(strength=value)) for value in STRENGTHS}
    by_distance = {value: tried(Way(distance=value)) for value in DISTANCES if value != LEARNED_DISTANCE}
    by_distance = {**by_distance, LEARNED_DISTANCE: by_strength[1.0]}
    both = {value: tried(Way(value, round(LEARNED_DISTANCE * value))) for value in BOTH}
    both = {**both, 1.0: by_strength[1.0]}
    by_distance, both = dict(sorted(by_distance.items())), dict(sorted(both.items()))
    text = as_text(arguments.people, (by_strength, by_distance, both))
    RESULT.write_text(text, encoding="utf-8")
    curves = {"motion_strength": by_strength, "relative_distance": by_distance, "both together": both}
    drawn({name: (list(found), course_of(found, by_strength[1.0])) for name, found in curves.items()}).save(
        PICTURE, optimize=True
    )
    print(text)


def course_of(found: dict, learned: Moved) -> dict[str, list[float]]:
    return {
        "mouth": [m.mouth / learned.mouth for m in found.values()],
        "head": [m.head / learned.head for m in found.values()],
        "lip sync": [m.sync / learned.sync for m in found.values()],
    }


def as_text(people: int, found: tuple[dict[float, Moved], dict[int, Moved], dict[float, Moved]]) -> str:
    by_strength, by_distance, both = found
    low, high = bounds(by_strength)
    distance_rises = {
        name: rises([getattr(m, name) for m in by_distance.values()])
        or rises([-getattr(m, name) for m in by_distance.values()])
        for name in ("mouth", "head")
    }
    effect = ", ".join(f"{name}: {'yes' if is_so else 'no'}" for name, is_so in distance_rises.items())
    spread = {name: [getattr(m, name) for m in by_distance.values()] for name in ("mouth", "head")}
    told = ", ".join(f"{name} {100 * (max(v) / min(v) - 1):.0f} %" for name, v in spread.items())
    return "\n".join(
        [
            "# What motion strength does",
            "",
            f"By `python -m benchmarks.motion_strength`, {machine(torch.device('cpu'), torch.get_num_threads())}. "
            f"Means of {people} people with voices and prompts that were not trained on, {CLIPS} clips each, by "
            "the demo model. Mouth: how much darker its inside is than in the picture, in levels of 255; head: "
            "standard deviation of its place.",
            "",
            table("motion_strength", {f"{value:g}": m for value, m in by_strength.items()}),
            "",
            f"From {low:g} to {high:g} the mouth opens further with every value, in silence it is open no more than "
            f"{SHUT:g} of that, lip sync stays >= {SYNC} and likeness within {IDENTITY_LOSS:g} dB of that at 1.",
            "",
            table("relative_distance", {f"{value}": m for value, m in by_distance.items()}),
            "",
            f"Does the distance alone move them in one direction over the whole range? {effect}. Largest against "
            f"smallest: {told}.",
            "",
            table("both", {f"{value:g}, {round(LEARNED_DISTANCE * value)}": m for value, m in both.items()}),
            "",
            "![Mouth and head against the value](../../docs/images/motion_strength.png)",
            "",
        ]
    )


if __name__ == "__main__":
    main()
