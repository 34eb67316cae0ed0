"""Drawn videos that everything is trained on: people who talk, and do what a prompt asks, now and then another one."""

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.duration import FRAMES_PER_BLOCK

from ..direction import Direction, prompt_for, random_direction
from ..drawing import draw
from ..motion import heard, poses_of
from ..person import Person, in_front_of, person_of
from ..pose import Pose
from ..speech import RATE, Track, track_of

PEOPLE = 4000
"""Seeds 0..PEOPLE are trained on; the held-out people come after them."""
BLOCKS = 4
"""Of a video: as many as the ring cache holds."""
FRAMES = BLOCKS * FRAMES_PER_BLOCK
FRAME_RATES = (Fraction(16), Fraction(24), Fraction(25), Fraction(30))
TRACK_SECONDS = 8.0
CHANGED = 0.4
"""How often another prompt comes in mid-video."""


@dataclass(frozen=True)
class Scene:
    """A video of training: who, by which prompts (the later one from block `change` on, None: none), to which part of
    which track."""

    person: int
    prompt: str
    later: str
    change: int | None
    track: int
    first: int
    fps: str


@dataclass(frozen=True)
class Videos:
    """M videos: frames uint8 [M, 48, 128, 128, 3] on the disk, stills [M, 128, 128, 3], tracks' sounds [N, S]."""

    frames: np.ndarray
    stills: np.ndarray
    sounds: Tensor
    heard: np.ndarray
    scenes: list[Scene]

    @classmethod
    def load(cls, folder: Path) -> "Videos":
        scenes = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
        return cls(
            np.load(folder / "frames.npy", mmap_mode="r"),
            np.load(folder / "stills.npy"),
            torch.from_numpy(np.load(folder / "sounds.npy")),
            np.load(folder / "heard.npy"),
            [Scene(**scene) for scene in scenes],
        )


def shown(rows: np.ndarray) -> np.ndarray:
    """What is heard as videos show it: a frame of the encoder (20 ms) later, which hears the 25 ms that begin at its
    time."""
    return np.concatenate([rows[:1], rows[:-1]])


def at_frames(rows: np.ndarray, sound: Tensor, first: int, frames: int, fps: Fraction) -> np.ndarray:
    """Rows [T, n] at 50 a second for video frames [first, first + frames): aligned as the features are."""
    table = torch.from_numpy(shown(rows)).float()[None, None]
    return AvatarAudio(table, sound, RATE).aligned(first, frames, fps)[0, 0].T.double().numpy()


def directed(direction: Direction, later: Direction | None, change: int | None) -> list[Direction]:
    """By frame."""
    begins = FRAMES if change is None else change * FRAMES_PER_BLOCK
    return [direction if later is None or frame < begins else later for frame in range(FRAMES)]


def frames_of(person: Person, rows: np.ndarray, directions: list[Direction]) -> np.ndarray:
    """uint8 [T, 128, 128, 3] of rows [T, 13] of what is heard."""
    kinds = {direction: poses_of(rows, direction) for direction in set(directions)}
    return np.stack(
        [
            draw(in_front_of(person, direction.wall), Pose.of_row(kinds[direction][frame]))
            for frame, direction in enumerate(directions)
        ]
    )


def draw_videos(folder: Path, count: int, tracks: int, seed: int) -> None:
    """Seeded; writes the files of `Videos`, scenes.json last."""
    if (folder / "scenes.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    known = [track_of(np.random.default_rng([seed, n]), TRACK_SECONDS) for n in range(tracks)]
    told = [heard(track) for track in known]
    side = draw(person_of(0), Pose()).shape[0]
    frames = np.lib.format.open_memmap(
        folder / "frames.npy", mode="w+", dtype=np.uint8, shape=(count, FRAMES, side, side, 3)
    )
    stills, scenes = [], []
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        scene, directions = _scene(rng, tracks)
        rows = at_frames(told[scene.track], known[scene.track].sound, scene.first, FRAMES, Fraction(scene.fps))
        person = person_of(scene.person)
        frames[number] = frames_of(person, rows, directions)
        stills.append(draw(person, Pose()))
        scenes.append(scene)
        if (number + 1) % 40 == 0:
            print(f"drew {number + 1} of {count}", flush=True)
    frames.flush()
    np.save(folder / "stills.npy", np.stack(stills))
    np.save(folder / "sounds.npy", np.stack([track.sound[0].numpy() for track in known]))
    np.save(folder / "heard.npy", np.stack(told))
    (folder / "scenes.json").write_text(json.dumps([asdict(scene) for scene in scenes]), encoding="utf-8")


def _scene(rng: np.random.Generator, tracks: int) -> tuple[Scene, list[Direction]]:
    first = random_direction(rng)
    change, later = None, None
    if rng.random() < CHANGED:
        change, later = int(rng.integers(1, BLOCKS)), random_direction(rng, asked=0.8)
    fps = FRAME_RATES[rng.integers(len(FRAME_RATES))]
    scene = Scene(
        person=int(rng.integers(PEOPLE)),
        prompt=prompt_for(first, rng),
        later="" if later is None else prompt_for(later, rng),
        change=change,
        track=int(rng.integers(tracks)),
        first=int(rng.integers(0, int(TRACK_SECONDS * fps) - FRAMES)),
        fps=str(fps),
    )
    return scene, directed(first, later, change)


def held_out_track(number: int, seconds: float) -> Track:
    """A voice that nothing was trained on."""
    return track_of(np.random.default_rng([77, number]), seconds, held_out=True)
