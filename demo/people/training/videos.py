"""Drawn videos that everything is trained on: people who talk, and do what a prompt asks, now and then another one."""

import json
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.duration import FRAMES_PER_BLOCK

from ..canvas import UNITS
from ..direction import Direction, prompt_for, random_direction
from ..drawing import draw
from ..motion import heard, poses_of
from ..person import Person, in_front_of, person_of
from ..pose import Pose
from ..skeleton import draw_skeleton
from ..speech import RATE, Track, track_of

PEOPLE = 4000
"""Seeds 0..PEOPLE are trained on; the held-out people come after them."""
BLOCKS = 4
"""Of a video: as many as the ring cache holds."""
FRAMES = BLOCKS * FRAMES_PER_BLOCK
FRAME_RATES = (Fraction(16), Fraction(24), Fraction(25), Fraction(30))
TRACK_SECONDS = 8.0
DRIVEN = ("turn", "nod", "tilt", "sway")
"""What a pose video moves."""
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
    """M videos: frames uint8 [M, 48, 128, 128, 3] on the disk, stills [M, 128, 128, 3], tracks' sounds [N, S]; drives,
    pictures like frames that tell how the heads move, None where they move as the voice has it."""

    frames: np.ndarray
    stills: np.ndarray
    sounds: Tensor
    heard: np.ndarray
    scenes: list[Scene]
    drives: np.ndarray | None

    @classmethod
    def load(cls, folder: Path) -> "Videos":
        scenes = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
        return cls(
            np.load(folder / "frames.npy", mmap_mode="r"),
            np.load(folder / "stills.npy"),
            torch.from_numpy(np.load(folder / "sounds.npy")),
            np.load(folder / "heard.npy"),
            [Scene(**scene) for scene in scenes],
            np.load(drives, mmap_mode="r") if (drives := folder / "drives.npy").exists() else None,
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


def head_moves(rng: np.random.Generator, frames: int, fps: Fraction) -> np.ndarray:
    """[T, 4] of `DRIVEN`: how somebody's head moves who pays no heed to the voice; now and then it stays somewhere."""
    time = np.arange(frames)[:, None] / float(fps)
    waves = [np.sin(2 * np.pi * (rng.uniform(0.15, 0.9, 4) * time + rng.random(4))) for _ in range(2)]
    moves = 0.7 * waves[0] + 0.5 * waves[1]
    if rng.random() < 0.2:
        moves = np.repeat(rng.uniform(-1, 1, (1, 4)), frames, axis=0)
    return np.clip(moves, -1, 1)


def frames_of(
    person: Person, rows: np.ndarray, directions: list[Direction], moves: np.ndarray | None = None
) -> np.ndarray:
    """uint8 [T, 128, 128, 3] of rows [T, 13] of what is heard; `moves` [T, 4] of `DRIVEN` go before the voice's."""
    kinds = {direction: poses_of(rows, direction) for direction in set(directions)}
    pictures = []
    for frame, direction in enumerate(directions):
        pose = Pose.of_row(kinds[direction][frame])
        if moves is not None:
            pose = replace(pose, **dict(zip(DRIVEN, moves[frame].tolist(), strict=True)))
        pictures.append(draw(in_front_of(person, direction.wall), pose))
    return np.stack(pictures)


def skeletons(moves: np.ndarray) -> np.ndarray:
    """uint8 [T, 128, 128, 3] of moves [T, 4] of `DRIVEN`."""
    return np.stack([draw_skeleton(Pose(**dict(zip(DRIVEN, row.tolist(), strict=True)))) for row in moves])


@dataclass(frozen=True)
class Amount:
    """So many videos of so many voices; `driven`: each with pictures of how the head moves."""

    videos: int
    tracks: int
    driven: bool = False


def draw_videos(folder: Path, amount: Amount, seed: int) -> None:
    """Seeded; writes the files of `Videos`, scenes.json last."""
    if (folder / "scenes.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    known = [track_of(np.random.default_rng([seed, n]), TRACK_SECONDS) for n in range(amount.tracks)]
    told = [heard(track) for track in known]
    frames = _empty(folder / "frames.npy", amount.videos)
    drives = _empty(folder / "drives.npy", amount.videos) if amount.driven else None
    stills, scenes = [], []
    for number in range(amount.videos):
        rng = np.random.default_rng([seed, 1, number])
        scene, directions = _scene(rng, amount.tracks)
        fps = Fraction(scene.fps)
        rows = at_frames(told[scene.track], known[scene.track].sound, scene.first, FRAMES, fps)
        person, moves = person_of(scene.person), None
        if drives is not None:
            moves = head_moves(rng, FRAMES, fps)
            drives[number] = skeletons(moves)
        frames[number] = frames_of(person, rows, directions, moves)
        stills.append(draw(person, Pose()))
        scenes.append(scene)
        if (number + 1) % 40 == 0:
            print(f"drew {number + 1} of {amount.videos}", flush=True)
    for written in (frames, drives):
        if written is not None:
            written.flush()
    np.save(folder / "stills.npy", np.stack(stills))
    np.save(folder / "sounds.npy", np.stack([track.sound[0].numpy() for track in known]))
    np.save(folder / "heard.npy", np.stack(told))
    (folder / "scenes.json").write_text(json.dumps([asdict(scene) for scene in scenes]), encoding="utf-8")


def _empty(file: Path, count: int) -> np.memmap[Any, np.dtype[np.uint8]]:
    return np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, FRAMES, UNITS, UNITS, 3))


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
