"""Whether each mouth follows its own speaker's voice, with two and four people in one picture, on the demo model.

    python -m benchmarks.speakers

Writes benchmarks/results/speakers.md and speakers.png. The demo model was trained on pictures of one person, 64x64, so
this shows what masks do, not how well a model does that knows pictures of several people. Needs espeak-ng.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, permutations

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks import ROOT, measures
from benchmarks.quality import FPS, Demo, generate
from demo.training.portraits import Person, Pose, draw, draw_person
from demo.training.train_vae import PEOPLE
from demo.training.voices import RATE, voice_of
from liveavatar_runtime.audio.conversation import Conversation, Span, Speaker, mixed
from liveavatar_runtime.audio.encoded_silence import EncodedSilence
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.voice import Voice
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.media.areas import areas_by_faces
from liveavatar_runtime.sampling.actor_masks import token_weights
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, prepare

RESULTS = ROOT / "benchmarks" / "results" / "speakers.md"
SIDE = 64
"""Of each person in the video."""
TURN, SHOWN_RATE = 2, 2.5
"""Seconds, and pictures of a second in the strip."""
GROUPS = {2: (400, 500, 600), 4: (500, 700)}
"""Number of people -> the first of the held-out people of each group."""
STRIP = RESULTS.with_suffix(".png")


@dataclass(frozen=True)
class Group:
    """People side by side before one wall, and a voice [1, S] of each."""

    people: Sequence[Person]
    voices: Sequence[Tensor]

    @classmethod
    def of(cls, count: int, first: int, seconds: float) -> "Group":
        people = [draw_person(PEOPLE + first + n) for n in range(count)]
        same_wall = [replace(person, wall=people[0].wall) for person in people]
        rngs = (np.random.default_rng([80, count, first, n]) for n in range(count))
        return cls(same_wall, [voice_of(rng, seconds, held_out=True) for rng in rngs])

    @property
    def picture(self) -> Tensor:
        row = np.hstack([draw(person, Pose(), 256) for person in self.people])
        return torch.from_numpy(row).float() / 255

    @property
    def frames(self) -> int:
        return self.voices[0].shape[1] * int(FPS) // RATE


def silence_of(demo: Demo) -> Tensor:
    return EncodedSilence(demo.audio.encode_prepared).frame


def together(demo: Demo, group: Group) -> Conversation:
    voices = [demo.heard(voice) for voice in group.voices]
    tracks = [(voice, Fraction(0)) for voice in voices]
    return conversation(group.picture, [Speaker(voice) for voice in voices], tracks, silence_of(demo))


def in_turns(demo: Demo, group: Group) -> tuple[Conversation, Tensor]:
    """One recording, of which everyone speaks `TURN` seconds and the next one goes on; and who speaks, [A, frames]."""
    recording, count = demo.heard(group.voices[0]), len(group.people)
    seconds = group.voices[0].shape[1] // RATE
    starts = range(0, seconds, TURN)
    spans = [
        tuple(Span(Fraction(at), Fraction(at + TURN)) for at in starts if at // TURN % count == number)
        for number in range(count)
    ]
    speakers = [Speaker(recording, turns=turns) for turns in spans]
    heard = [[speaker.is_heard(frame, FPS) for frame in range(group.frames)] for speaker in speakers]
    return conversation(group.picture, speakers, [(recording, Fraction(0))], silence_of(demo)), torch.tensor(heard)


def conversation(
    picture: Tensor, speakers: Sequence[Speaker], tracks: Sequence[tuple[AvatarAudio, Fraction]], silence: Tensor
) -> Conversation:
    """Of the people in a picture [H, W, 3], from left to right."""
    areas = areas_by_faces(picture, len(speakers))
    return Conversation(tuple(speakers), areas.masks, *mixed(tracks), silence)


def sampled(demo: Demo, group: Group, voice: Voice) -> np.ndarray:
    """Frames uint8 [T, 64, 64 * people, 3]."""
    clips = -(-group.frames // 48)
    plan = ClipPlan(
        num_clip=clips, fps=FPS, width=SIDE * len(group.people), height=SIDE, keep_aspect=False, seed=7, steps=4
    )
    masks = token_weights(voice, plan) if isinstance(voice, Conversation) else None
    text = demo.text.encode("A friendly person talks to the camera.")
    given = Inputs(group.picture, text, voice, masks)
    config = load_transformer(demo.bundle.model).config
    ready = prepare(plan, config, given, demo.placed_vae)
    return generate(demo, ready)[: group.frames]


def openings(group: Group, frames: np.ndarray) -> np.ndarray:
    """[A, frames]: how far each mouth is open."""
    parts = (frames[:, :, SIDE * n : SIDE * (n + 1)] for n in range(len(group.people)))
    found = [measures.mouth_opening(part, draw(p, Pose())) for part, p in zip(parts, group.people, strict=True)]
    return np.stack(found)


def energies(group: Group, count: int) -> np.ndarray:
    return np.stack([measures.frame_energy(v[0].numpy(), RATE, float(FPS), group.frames) for v in group.voices[:count]])


def correlations(mouths: Iterable[np.ndarray], sounds: Sequence[np.ndarray] | np.ndarray) -> list[list[float]]:
    return [[measures.correlation(mouth, sound) for sound in sounds] for mouth in mouths]


def table(rows: list[list[float]], of: str) -> list[str]:
    """Correlations of mouths (rows) and voices (columns)."""
    head = f"| mouth of | {' | '.join(f'{of} {n + 1}' for n in range(len(rows[0])))} |"
    lines = [head, "| --- |" + " --- |" * len(rows[0])]
    return [*lines, *(f"| speaker {n} | {' | '.join(f'{v:.3f}' for v in row)} |" for n, row in enumerate(rows, 1))]


def pauses(mouths: np.ndarray, heard: Tensor) -> str:
    """How far mouths are open where their speakers are silent, in units of where they speak; a latent's frames after
    each change are left out."""
    speaking, silent = [], []
    for mouth, is_heard in zip(mouths, heard.numpy(), strict=True):
        settled = np.ones(len(mouth), bool)
        for change in np.flatnonzero(np.diff(is_heard.astype(int))) + 1:
            settled[max(0, change - 4) : change + 12] = False
        speaking.append(mouth[is_heard & settled].mean())
        silent.append(mouth[~is_heard & settled].mean())
    return f"{100 * np.mean(silent) / np.mean(speaking):.1f} %"


def strip(frames: np.ndarray) -> np.ndarray:
    """The first seconds as rows of pictures, one for each turn."""
    shown = frames[:: round(float(FPS) / SHOWN_RATE)]
    turn = round(TURN * SHOWN_RATE)
    rows = [np.hstack(list(shown[first : first + turn])) for first in range(0, 2 * turn, turn)]
    return np.vstack(rows)


def at_once(demo: Demo, seconds: float) -> Iterator[str]:
    """Lines of the report: everybody speaks all the time."""
    for count, firsts in GROUPS.items():
        yield from ("", f"## {count} people who talk at once")
        own, others = list[float](), list[float]()
        for first in firsts:
            group = Group.of(count, first, seconds)
            sounds, voice = energies(group, count), together(demo, group)
            found, apart = (
                correlations(openings(group, sampled(demo, group, voice)), sounds),
                correlations(sounds, sounds),
            )
            pairs = list(permutations(range(count), 2))
            own += [found[n][n] for n in range(count)]
            others += [found[a][b] for a, b in pairs]
            yield from ("", *table(found, "voice"), "")
            yield f"The voices themselves have at most {max(apart[a][b] for a, b in pairs):.3f} in common."
        yield ""
        yield f"Own voice: {np.mean(own):.3f}, at worst {min(own):.3f}. Another voice: at most {max(others):.3f}."


def as_one_track(demo: Demo, seconds: float) -> Iterator[str]:
    """Without speakers."""
    group = Group.of(2, GROUPS[2][0], seconds)
    mix = demo.heard(together(demo, group).waveform)
    yield from ("", "## The first two voices as one track without speakers, for comparison", "")
    yield from table(correlations(openings(group, sampled(demo, group, mix)), energies(group, 2)), "voice")


def by_turns(demo: Demo, seconds: float) -> Iterator[str]:
    """Whose mouth is shut while others speak; writes the strip."""
    yield from ("", f"## Turns of {TURN} s from one recording", "")
    yield "| people | a silent speaker hears | mouth, of that of one who speaks, in each group |"
    yield "| --- | --- | --- |"
    strips: list[np.ndarray] = []
    for count, firsts in GROUPS.items():
        shut: dict[str, list[str]] = {"encoded silence (chosen)": [], "zeros, as after the end of a single voice": []}
        for first in firsts:
            group = Group.of(count, first, seconds)
            voice, heard = in_turns(demo, group)
            zeros = replace(voice, silence=torch.zeros_like(voice.silence))
            for values, one in zip(shut.values(), (voice, zeros), strict=True):
                frames = sampled(demo, group, one)
                values.append(pauses(openings(group, frames), heard))
                if one is voice and first == firsts[0]:
                    strips.append(strip(frames))
        yield from (f"| {count} | {name} | {', '.join(values)} |" for name, values in shut.items())
    yield from ("", f"![Turns, {1 / SHOWN_RATE:g} s from picture to picture]({STRIP.name})")
    width = max(row.shape[1] for row in strips)
    rows = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in strips]
    cv2.imwrite(str(STRIP), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    demo = Demo.load(ROOT / "demo" / "liveavatar-demo")
    lines = [
        "# Several speakers: which mouth follows which voice",
        "",
        f"By `python -m benchmarks.speakers`: the demo model, {seconds:g} s at 25 frames a second, {SIDE}x{SIDE} "
        "pixels a person, held-out people and voices, areas from the faces in the picture. Correlation of the opening "
        "of a mouth with the loudness of a voice.",
    ]
    for line in chain(*(part(demo, seconds) for part in (at_once, as_one_track, by_turns))):
        print(line, flush=True)
        lines.append(line)
    lines += [
        "",
        "What this shows: voices reach the mouths of their own areas. What it does not show: pictures of several "
        "people as such, which the demo model never saw in its training (people get softer beside each other, and "
        "where a mouth opens little all figures are worse), and the 14B model, which was not run.",
        "",
    ]
    RESULTS.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
