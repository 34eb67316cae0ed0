"""How like their pictures people stay, also in long videos."""

from dataclasses import replace

import numpy as np

from benchmarks import measures
from benchmarks.quality import BLOCK, CLIP, Demo, generate, row
from demo.people.drawing import draw
from demo.people.person import Person, in_front_of, person_of
from demo.people.pose import Pose
from demo.people.speech import RATE, Track
from demo.people.training.videos import PEOPLE

from .scene import FPS, Scene, prepared, scene


def still_parts(person: Person) -> np.ndarray:
    """bool [128, 128]: pixels that no pose changes."""
    extremes = [
        Pose(**{name: sign}) for name in ("turn", "nod", "tilt", "sway", "brows", "look_x") for sign in (-1.0, 1.0)
    ]
    extremes += [Pose(opening=1.0), Pose(spread=1.0, teeth=1.0), Pose(blink=1.0, breath=1.0), Pose(look_y=1.0)]
    reference = draw(person, Pose()).astype(int)
    return np.all([np.abs(draw(person, pose) - reference).max(axis=-1) <= 3 for pose in extremes], axis=0)


def identity(demo: Demo, people: int) -> list[str]:
    """How like their picture held-out people stay, and people that were trained on."""
    lines = []
    for name, base in (("held-out", PEOPLE + 1), ("trained", 0)):
        found = []
        for number in range(people):
            what = replace(scene(600 + number, 4.0), person=person_of(base + number))
            frames = generate(demo, prepared(demo, what, clips=2, seed=number))
            perfect = what.drawn(len(frames))
            found.append(measures.psnr(frames, perfect))
        mean = float(np.mean(found))
        lines.append(
            row(
                f"likeness to the perfect drawing, {people} {name} people (PSNR)",
                f"{mean:.1f} dB",
                ">= 24 dB",
                mean >= 24,
            )
        )
        if name == "held-out":
            still = [still_parts(in_front_of(person_of(base + number), None)) for number in range(people)]
            values = []
            for number, part in enumerate(still):
                what = replace(scene(700 + number, 2.0), person=person_of(base + number))
                frames = generate(demo, prepared(demo, what, clips=1, seed=number))
                picture = draw(what.person, Pose())
                values.append(
                    measures.psnr(frames[:, part], np.broadcast_to(picture[part], (len(frames), part.sum(), 3)))
                )
            kept = float(np.mean(values))
            lines.append(
                row(f"identity, {people} people, still parts (PSNR)", f"{kept:.1f} dB", ">= 28 dB", kept >= 28)
            )
    return lines  # fmt: skip


def length(demo: Demo, clips: int) -> list[str]:
    """The last 10 clips of a long stream against its first 10; both speak the same, so that only drift can differ."""
    part = 10 * CLIP // BLOCK
    what = scene(1, clips * CLIP / float(FPS))
    same = int(10 * CLIP / FPS * RATE)
    what.track.sound[:, -same:] = what.track.sound[:, :same]
    what = Scene(what.person, Track(what.track.sound, _repeated(what.track.mouths, same), what.track.vowels))
    ready = prepared(demo, what, clips)
    blocks, warm_up = ready.plan.num_blocks, 4
    frames = generate(demo, ready, shown=lambda b: b < part or b >= blocks - part - warm_up)
    perfect = what.drawn(part * BLOCK)
    first, last = frames[: part * BLOCK], frames[-part * BLOCK :]
    apart = measures.psnr(last, perfect) - measures.psnr(first, perfect)
    return [
        row(f"last 10 of {clips} clips against the first (PSNR)", f"{apart:+.2f} dB", "within 1 dB", abs(apart) <= 1)
    ]


def _repeated(mouths: np.ndarray, samples: int) -> np.ndarray:
    count = samples * 50 // RATE
    return np.concatenate([mouths[:-count], mouths[:count]])
