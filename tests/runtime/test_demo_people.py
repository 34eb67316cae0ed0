"""People of 128x128: drawn the same every time, mouths that follow phonemes, bodies that follow prompts."""

import ctypes.util
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from demo.people.direction import HELD_OUT, TRAINED, Direction, prompt_for, random_direction
from demo.people.drawing import draw
from demo.people.motion import HEARD, heard, poses_of
from demo.people.mouth import BOX
from demo.people.person import KINDS, in_front_of, person_of
from demo.people.pose import MOTIONS, Pose
from demo.people.skeleton import draw_skeleton
from demo.people.speech import Track, mouths_of, track_of
from demo.people.training.videos import FRAMES, Amount, Videos, draw_videos, frames_of, head_moves
from demo.people.visemes import CONSONANTS, VOWELS, viseme
from demo.training.portraits import WALLS


def test_people_differ_and_are_drawn_the_same_every_time():
    assert person_of(1) == person_of(1) != person_of(2)
    assert np.array_equal(draw(person_of(1), Pose()), draw(person_of(1), Pose()))
    assert {person_of(seed).kind for seed in range(200)} == set(KINDS)


@pytest.mark.parametrize("word", WALLS)
def test_the_wall_has_the_colour_asked_for(word):
    frame = draw(in_front_of(person_of(3), word), Pose())
    assert np.abs(frame[4:10, 2:6].astype(int) - WALLS[word]).max() <= 24


def test_all_that_moves_is_seen_and_a_mouth_moves_the_mouth_only():
    person = person_of(10)
    for name in MOTIONS:
        # Teeth and tongue are seen between lips.
        opened = Pose(opening=0.5) if name in ("teeth", "tongue") else Pose()
        still = draw(person, opened).astype(int)
        moved = np.abs(draw(person, replace(opened, **{name: 1.0})).astype(int) - still).max(axis=-1)
        assert (moved > 8).sum() > 12, name
        if name in ("spread", "teeth", "tongue", "press"):
            moved[BOX[0].start : BOX[0].stop + 4, BOX[1]] = 0
            assert moved.max() <= 12, name


@pytest.mark.parametrize("mouth", [mouth for mouth in {**VOWELS, **CONSONANTS}.values() if mouth.opening > 0])
def test_every_sound_has_a_mouth_within_its_bounds(mouth):
    assert 0 <= mouth.opening <= 1 and -1 <= mouth.spread <= 1
    assert all(0 <= value <= 1 for value in (mouth.teeth, mouth.tongue, mouth.press))


def test_mouths_follow_phonemes_frame_by_frame():
    mouths, vowels = mouths_of([(0.0, "_"), (0.4, "A:"), (0.8, "m"), (1.0, "u:"), (1.4, "_")], 100)
    opening, spread, press = mouths[:, 0], mouths[:, 1], mouths[:, 4]
    assert opening[:14].max() < 0.05 and opening[24:36].min() > 0.8
    assert press[43:47].min() > 0.5 and opening[43:47].max() < 0.4
    assert spread[54:66].max() < -0.8 and opening[80:].max() < 0.05
    assert set(vowels[24:38]) == {"a"} and set(vowels[54:66]) == {"u"} and set(vowels[80:]) == {""}
    assert viseme("aI") == (VOWELS["a"], VOWELS["I"]) and viseme("tS") == (CONSONANTS["t"], CONSONANTS["S"])


def test_silence_is_a_still_person_and_a_prompt_moves_them():
    silent = heard(Track(torch.zeros(1, 16_000), np.zeros((50, 5)), [""] * 50))
    assert silent.shape == (50, len(HEARD)) and np.abs(silent).max() == 0
    assert np.abs(poses_of(silent, Direction())).max() == 0
    happy, aside = poses_of(silent, Direction(mood="happy")), poses_of(silent, Direction(aside="left"))
    assert happy[:, MOTIONS.index("smile")].min() > 0.5 > -0.5 > aside[:, MOTIONS.index("look_x")].max()


def test_held_out_wordings_are_in_no_prompt_of_training():
    rng = np.random.default_rng(1)
    trained = {prompt_for(random_direction(rng), rng) for _ in range(300)}
    asked = Direction(wall="red", mood="sad", nods=True, aside="left")
    text = prompt_for(asked, rng, HELD_OUT)
    assert "red" in text and "sad" in text.lower() and "nod" in text.lower() and "left" in text
    held_out = (*HELD_OUT.wall, *HELD_OUT.nods, *HELD_OUT.plain)
    assert not set(held_out) & {*TRAINED.wall, *TRAINED.nods, *TRAINED.plain}
    assert len(trained) > 200


@pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="espeak-ng's library is not installed")
def test_voices_of_several_languages_come_with_their_mouths():
    tracks = [track_of(np.random.default_rng([9, number]), 2.0, held_out=number > 3) for number in range(6)]
    assert all(track.sound.shape == (1, 32_000) and track.mouths.shape == (100, 5) for track in tracks)
    assert sum(track.mouths[:, 0].max() > 0.3 for track in tracks) >= 5
    again = track_of(np.random.default_rng([9, 0]), 2.0)
    assert torch.equal(again.sound, tracks[0].sound) and np.array_equal(again.mouths, tracks[0].mouths)


def test_a_driven_head_moves_as_its_pictures_tell_whatever_is_heard():
    moves = head_moves(np.random.default_rng(3), 3, Fraction(25))
    quiet, loud = np.zeros((3, len(HEARD))), np.zeros((3, len(HEARD)))
    loud[:, HEARD.index("turn")] = 1.0
    frames = frames_of(person_of(3), quiet, [Direction()] * 3, moves)
    assert np.array_equal(frames, frames_of(person_of(3), loud, [Direction()] * 3, moves))
    turn, nod, tilt, sway = moves[1].tolist()
    assert np.array_equal(frames[1], draw(person_of(3), Pose(turn=turn, nod=nod, tilt=tilt, sway=sway)))
    # The red point of the nose goes where the head goes.
    left, right = (np.argwhere(draw_skeleton(Pose(turn=by))[..., 0] > 200)[:, 1].mean() for by in (-1.0, 1.0))
    assert right - left > 4


@pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="needs espeak-ng's library")
def test_drawn_videos_are_read_again_and_driven_ones_tell_how(tmp_path):
    draw_videos(tmp_path, Amount(1, 1, driven=True), seed=4)
    videos = Videos.load(tmp_path)
    assert videos.frames.shape == (1, FRAMES, 128, 128, 3) and len(videos.scenes) == 1
    assert videos.drives is not None and videos.drives.shape == videos.frames.shape
    told = videos.drives[0].astype(int)
    assert told.max() > 200 and np.abs(told[-1] - told[0]).max() > 100
