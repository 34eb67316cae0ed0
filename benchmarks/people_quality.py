"""Measures the demo of 128x128 in its pictures: `python -m benchmarks.people_quality --bundle DIR`.

People, voices, words and wordings are none that it was trained on; videos come from the real runtime. What a video
shows is told by which drawing of the same person, at the same moment, it is nearest to. Writes
benchmarks/results/people.md.
"""

import argparse
import time
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import ROOT, measures
from benchmarks.quality import BLOCK, CLIP, CPU, LATENT, Demo, generate, row
from demo.people.direction import HELD_OUT, MOODS, SIDES, Direction, prompt_for
from demo.people.drawing import draw
from demo.people.motion import heard
from demo.people.mouth import BOX
from demo.people.person import Person, in_front_of, person_of
from demo.people.pose import Pose
from demo.people.speech import RATE, Track
from demo.people.training.videos import PEOPLE, at_frames, frames_of, held_out_track
from demo.people.visemes import VOWELS
from demo.training.portraits import WALLS
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.sampling.plan import SINK_POLICIES, ClipPlan, SinkPolicy
from liveavatar_runtime.sampling.prepare import Inputs, Prepared, prepare
from liveavatar_runtime.sampling.script import Change, Script
from liveavatar_runtime.vae import PlacedVAE

RESULT = ROOT / "benchmarks" / "results" / "people.md"
FPS, SIDE = Fraction(25), 128
MOVES = 7
"""Pixels by which a mouth may lie elsewhere, as the head turns."""
MOUTH = (slice(BOX[0].start + 2, BOX[0].stop + 4), BOX[1])
"""Where a mouth is drawn, in pixels of 128."""
GROUPS = ("i", "e", "a", "o", "u")
NOTHING = Direction()


@dataclass(frozen=True)
class Scene:
    """A held-out person, voice and what is asked of the person; another thing from frame `change` on."""

    person: Person
    track: Track
    direction: Direction = NOTHING
    later: Direction | None = None
    change: int = 0
    rows: np.ndarray = field(init=False, repr=False)
    """Of what is heard, at 50 a second."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", heard(self.track))

    def drawn(self, frames: int, direction: Direction | None = None, first: int = 0) -> np.ndarray:
        """The perfect video of it, of another direction."""
        rows = at_frames(self.rows, self.track.sound, first, frames, FPS)
        return frames_of(self.person, rows, [direction or self.direction] * frames)


def scene(number: int, seconds: float, direction: Direction = NOTHING) -> Scene:
    return Scene(person_of(PEOPLE + 1 + number), held_out_track(number, seconds), direction)


def prepared(demo: Demo, what: Scene, clips: int, seed: int = 7, policy: SinkPolicy = "adaptive") -> Prepared:
    rng = np.random.default_rng([79, seed])
    texts, script = {}, Script()
    if what.later is not None:
        block = what.change // BLOCK
        script = Script((Change(block=block, text=True),))
        texts = {block: demo.text.encode(prompt_for(what.later, rng, HELD_OUT))}
    plan = ClipPlan(
        num_clip=clips, fps=FPS, width=SIDE, height=SIDE, seed=seed, sink_policy=policy, reanchor_clips=2, script=script
    )
    given = Inputs(
        picture=torch.from_numpy(draw(what.person, Pose(), 512)).float() / 255,
        text=demo.text.encode(prompt_for(what.direction, rng, HELD_OUT)),
        audio=AvatarAudio(demo.audio.encode_long(what.track.sound, RATE)[None], what.track.sound, RATE),
        texts=texts,
    )
    config = load_transformer(demo.bundle.model).config
    return prepare(plan, config, given, PlacedVAE(demo.vae, CPU, torch.float32))


@dataclass(frozen=True)
class Mouths:
    """Drawings of a person's mouth to compare with."""

    poses: list[Pose]
    pictures: list[np.ndarray]

    @classmethod
    def of(cls, person: Person, poses: list[Pose]) -> "Mouths":
        return cls(poses, [draw(person, pose)[MOUTH] for pose in poses])

    def nearest(self, frame: np.ndarray) -> int:
        """The number of the drawing that a frame's mouth is nearest to, wherever the head has moved."""
        rows, columns = MOUTH
        window = frame[rows.start - MOVES : rows.stop + MOVES, columns.start - MOVES : columns.stop + MOVES]
        errors = [float(cv2.matchTemplate(window, one, cv2.TM_SQDIFF).min()) for one in self.pictures]
        return int(np.argmin(errors))


def openings(person: Person, frames: np.ndarray) -> np.ndarray:
    """[T]: how far the mouth is open, 0..1."""
    poses = [Pose(opening=o, spread=s) for o in np.linspace(0, 1, 9).tolist() for s in (-1.0, -0.4, 0.2, 0.8)]
    bank = Mouths.of(person, poses)
    return np.array([poses[bank.nearest(frame)].opening for frame in frames])


def lip_sync(demo: Demo) -> list[str]:
    """One minute in one stream, beside the perfect drawing of the same voice."""
    what = scene(0, 60.0)
    frames = generate(demo, prepared(demo, what, clips=32))[: int(60 * FPS)]
    perfect = what.drawn(len(frames))
    energy = measures.frame_energy(what.track.sound[0].numpy(), RATE, float(FPS), len(frames))
    found, ideal = openings(what.person, frames), openings(what.person, perfect)
    share = measures.correlation(found, energy) / measures.correlation(ideal, energy)
    same, lag = measures.correlation(found, ideal), measures.best_lag(found, ideal)
    late = measures.best_lag(found[-250:], ideal[-250:])
    most_late = max(abs(lag), abs(late))
    silent = energy < 0.02 * energy.max()
    shut = float(np.mean(found[silent] <= 0.13)) if silent.any() else 1.0
    seams = [measures.seam_ratio(frames, border, 1) for border in (BLOCK, CLIP, LATENT)]
    told = "{:.2f}, {:.2f}, {:.2f}".format(*seams)
    return [
        row("lip sync over 60 s, of what a perfect drawing reaches", f"{share:.3f}", ">= 0.9", share >= 0.9),
        row("mouth against the perfect drawing's (correlation)", f"{same:.3f}", ">= 0.8", same >= 0.8),
        row("best lag over 60 s, over the last 10 s (frames)", f"{lag:+d}, {late:+d}", "0 +- 1", most_late <= 1),
        row("shut in silence", f"{100 * shut:.1f} % of frames", ">= 99 %", shut >= 0.99),
        row("seams at blocks, clips, latents (x median frame)", told, "<= 1.3", max(seams) <= 1.3),
    ]  # fmt: skip


def vowels(demo: Demo, people: int) -> list[str]:
    """Which vowel a mouth shows, by the one that is said: a table, and the share that is right."""
    names = [str(group) for group in GROUPS]
    table = np.zeros((len(names), len(names)), int)
    for number in range(people):
        what = scene(300 + number, 8.0)
        frames = generate(demo, prepared(demo, what, clips=4, seed=number))
        poses = [
            Pose(opening=VOWELS[sign].opening * scale, spread=VOWELS[sign].spread)
            for sign in GROUPS
            for scale in (0.7, 1.0, 1.3)
        ]
        bank = Mouths.of(what.person, [replace(pose, opening=min(pose.opening, 1.0)) for pose in poses])
        for frame in range(len(frames)):
            said = what.track.vowels[min(int((frame + 0.5) * 50 / FPS), len(what.track.vowels) - 1)]
            if said:
                table[names.index(said), bank.nearest(frames[frame]) // 3] += 1
    right = float(np.mean([table[n, n] / max(table[n].sum(), 1) for n in range(len(names))]))
    lines = [row("vowel that the mouth shows (mean of five)", f"{100 * right:.0f} %", ">= 60 %", right >= 0.6), ""]
    lines += ["| said, shown | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for name, counts in zip(names, table, strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{100 * c / max(counts.sum(), 1):.0f} %" for c in counts) + " |")
    return lines


def asked_for(kind: str, rng: np.random.Generator) -> tuple[Direction, list[Direction]]:
    """Something of a kind, and all that it could be taken for."""
    if kind == "wall":
        options = [Direction(wall=word) for word in WALLS]
    elif kind == "mood":
        options = [Direction(mood=mood) for mood in MOODS]
    elif kind == "aside":
        options = [Direction(aside=side) for side in SIDES]
    else:
        options = [Direction(nods=True)]
    return options[int(rng.integers(len(options)))], [*options, Direction()]


def shows(what: Scene, frames: np.ndarray, options: list[Direction], first: int = 0) -> Direction:
    """The direction whose perfect video these frames are nearest to."""
    errors = [float(np.abs(frames.astype(float) - what.drawn(len(frames), one, first)).mean()) for one in options]
    return options[int(np.argmin(errors))]


def prompts(demo: Demo, each: int) -> list[str]:
    """Held-out wordings: whether the video shows what was asked for."""
    lines, all_right = [], []
    for kind in ("wall", "mood", "aside", "nods"):
        right = []
        for number in range(each):
            rng = np.random.default_rng([80, number])
            direction, options = asked_for(kind, rng)
            what = scene(400 + number, 3.0, direction)
            frames = generate(demo, prepared(demo, what, clips=1, seed=number))[12:]
            right.append(shows(what, frames, options, 12) == direction)
        all_right += right
        lines.append(
            row(f"prompts: {kind} ({each})", f"{100 * np.mean(right):.0f} %", ">= 95 %", bool(np.mean(right) >= 0.95))
        )
    return lines


def follows(demo: Demo, each: int) -> list[str]:
    """Another wall in mid-video: whether it is there two blocks later, by sink policy."""
    lines = []
    for policy in SINK_POLICIES:
        right = []
        for number in range(each):
            rng = np.random.default_rng([81, number])
            first, second = (Direction(wall=str(word)) for word in rng.choice(list(WALLS), 2, replace=False))
            what = replace(scene(500 + number, 6.0, first), later=second, change=6 * BLOCK)
            frames = generate(demo, prepared(demo, what, 3, number, policy), shown=lambda block: block < 10)
            after = frames[8 * BLOCK : 10 * BLOCK]
            colour = np.median(after[:, 2:24, [*range(6), *range(122, 128)]], axis=(0, 1, 2))
            nearest = min(WALLS, key=lambda word: float(np.square(colour - WALLS[word]).sum()))
            right.append(nearest == second.wall)
        lines.append(
            row(
                f"another wall within two blocks, {policy}",
                f"{100 * np.mean(right):.0f} %",
                ">= 95 %",
                bool(np.mean(right) >= 0.95),
            )
        )
    return lines


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=20, help="of each kind")
    parser.add_argument("--clips", type=int, default=300, help="length of the long stream")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo, started = Demo.load(arguments.bundle), time.monotonic()
    lines = ["| figure | measured | target | met |", "| --- | --- | --- | --- |"]
    for part in (
        lip_sync(demo),
        identity(demo, arguments.people),
        prompts(demo, arguments.prompts),
        follows(demo, arguments.prompts),
        length(demo, arguments.clips),
        vowels(demo, arguments.people),
    ):
        print("\n".join(part), flush=True)
        lines += part
    minutes = (time.monotonic() - started) / 60
    title = "# Measured quality of the demo of 128x128\n"
    RESULT.write_text(
        "\n".join([title, (__doc__ or "").strip(), f"\n{minutes:.0f} minutes.\n", *lines, ""]), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
