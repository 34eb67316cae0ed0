"""Heads that follow a pose video, and mouths of two people in one picture that follow a voice each."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch

from benchmarks import measures
from benchmarks.quality import CLIP, Demo, generate, row
from benchmarks.speakers import conversation, correlations, silence_of
from demo.people.drawing import draw
from demo.people.person import Person
from demo.people.pose import Pose
from demo.people.training.videos import DRIVEN, head_moves, skeletons
from liveavatar_runtime.audio.conversation import Conversation, Speaker
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.media.driving_video import PicturesInMemory
from liveavatar_runtime.sampling.actor_masks import token_weights
from liveavatar_runtime.sampling.driven_pose import DrivenPose, DrivingVideo
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, Prepared, prepare

from .mouths import openings
from .scene import FPS, SIDE, prepared, scene

EYES = (slice(30, 68), slice(30, 98))
"""Where eyes and nose are, in pixels of 128: no voice moves them but through the head."""
TURNS = np.linspace(-1, 1, 9)


def turns_of(person: Person, frames: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """[T]: how far the head is turned, by the nearest drawing; moves [T, 4] of `DRIVEN` tell all but that."""
    found = []
    for frame, told in zip(frames, moves, strict=True):
        others = dict(zip(DRIVEN, told.tolist(), strict=True))
        drawn = [draw(person, Pose(**{**others, "turn": turn})) for turn in TURNS.tolist()]
        errors = [np.abs(frame[EYES].astype(int) - one[EYES]).mean() for one in drawn]
        found.append(TURNS[int(np.argmin(errors))])
    return np.array(found)


def driven_by(demo: Demo, ready: Prepared, moves: np.ndarray) -> Prepared:
    """With a pose video of moves [T, 4] of `DRIVEN`."""
    pictures = PicturesInMemory(torch.from_numpy(skeletons(moves)).float() / 255, FPS)
    pose = DrivenPose(DrivingVideo(pictures, loops=False, key="moves"), ready.plan, demo.placed_vae)
    return replace(ready, conditions=replace(ready.conditions, pose=pose, pose_key="moves"))


def driven(demo: Demo, people: int) -> list[str]:
    """Two clips of each person, by a voice that asks for other moves."""
    found, told = [], []
    for number in range(people):
        what = scene(800 + number, 4.0)
        moves = head_moves(np.random.default_rng([82, number]), 2 * CLIP, FPS)
        ready = driven_by(demo, prepared(demo, what, clips=2, seed=number), moves)
        found.append(turns_of(what.person, generate(demo, ready), moves))
        told.append(moves[:, DRIVEN.index("turn")])
    same = measures.correlation(np.concatenate(found), np.concatenate(told))
    error = float(np.abs(np.concatenate(found) - np.concatenate(told)).mean())
    name = f"heads of {people} people against their pose videos: turns (correlation; mean error, from -1 to 1)"
    return [row(name, f"{same:.3f}; {error:.2f}", ">= 0.9", same >= 0.9)]


def two_people(demo: Demo, pairs: int) -> list[str]:
    """Side by side, both speak all the time, each with a voice: whose mouth follows whose."""
    own, other = list[float](), list[float]()
    for number in range(pairs):
        left = scene(900 + 2 * number, 6.0)
        right = scene(901 + 2 * number, 6.0)
        right = replace(right, person=replace(right.person, wall=left.person.wall))
        both = (left, right)
        drawn = np.hstack([draw(what.person, Pose(), 2 * SIDE) for what in both])
        picture = torch.from_numpy(drawn).float() / 255
        voices = [demo.heard(what.track.sound) for what in both]
        tracks = [(voice, Fraction(0)) for voice in voices]
        said = conversation(picture, [Speaker(voice) for voice in voices], tracks, silence_of(demo))
        frames = _together(demo, picture, said, number)
        mouths = [openings(what.person, frames[:, :, SIDE * n : SIDE * (n + 1)]) for n, what in enumerate(both)]
        ideal = [openings(what.person, what.drawn(len(frames))) for what in both]
        found = correlations(mouths, ideal)
        own += [found[0][0], found[1][1]]
        other += [found[0][1], found[1][0]]
    mine, others = float(np.mean(own)), float(np.mean(other))
    name = f"two people in a picture ({pairs}): a mouth against its own voice's perfect drawing, against the other's"
    return [row(name, f"{mine:.3f}, {others:.3f}", ">= 0.7, <= 0.3", mine >= 0.7 and others <= 0.3)]


def _together(demo: Demo, picture: torch.Tensor, voice: Conversation, seed: int) -> np.ndarray:
    """Three clips, uint8 [144, 128, 256, 3]."""
    plan = ClipPlan(num_clip=3, fps=FPS, width=2 * SIDE, height=SIDE, keep_aspect=False, seed=seed)
    text = demo.text.encode("Two people talk to the camera.")
    given = Inputs(picture, text, voice, token_weights(voice, plan))
    return generate(demo, prepare(plan, load_transformer(demo.bundle.model).config, given, demo.placed_vae))
