"""The clip judge on small made videos: a face of noise whose mouth opens with the voice, and what can go wrong."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.judge.chart import draw_judgement
from liveavatar_runtime.judge.judge import AROUND, Judge, Judged
from liveavatar_runtime.judge.judgement import Again, Judgement, numbers_text
from liveavatar_runtime.judge.video_file import Clips, Watched, file_facts, judge_file
from liveavatar_runtime.judge.voice import Loudness, LoudnessMeter
from liveavatar_runtime.media.video import AudioTrack, PictureTrack, VideoWriter
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.takes import parse_takes

FPS, RATE, CLIP, CLIPS = Fraction(25), 8000, 36, 6
MOUTH = (slice(40, 48), slice(24, 36))
EYES = (slice(12, 18), slice(16, 44))


@dataclass(frozen=True)
class Made:
    """frames uint8 [T, 64, 64, 3], voice [1, S]."""

    frames: np.ndarray
    voice: np.ndarray


@pytest.fixture(autouse=True)
def whole_frames(monkeypatch) -> None:
    """As with an OpenCV that has no cascades: what they see in noise is not what is tested."""
    monkeypatch.delattr(cv2, "CascadeClassifier")


def loudness_of_words(seed: int, seconds: float) -> np.ndarray:
    """Of each hundredth of a second: syllables of various loudness, with pauses."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < 100 * seconds:
        syllables = [rng.uniform(0.4, 1) * np.sin(np.linspace(0, np.pi, rng.integers(12, 28))) for _ in range(5)]
        parts += [*syllables, np.zeros(rng.integers(25, 45))]
    return np.concatenate(parts)[: int(100 * seconds)]


@cache
def made(seed: int = 1, person: int = 5, clips: int = CLIPS) -> Made:
    """The mouth darkens with the voice; the eyes move without it, and much more."""
    frames = clips * CLIP
    level = loudness_of_words(seed, frames / float(FPS))
    rng = np.random.default_rng(person)
    face = cv2.resize(rng.uniform(60, 220, (16, 16, 3)), (64, 64))
    course = cv2.GaussianBlur(level.reshape(1, -1), (0, 0), 4)[0]
    opening = np.interp(np.arange(frames) / float(FPS) * 100, np.arange(len(course)), course)
    shown = np.repeat(face[None], frames, axis=0)
    shown[(slice(None), *MOUTH)] -= 60 * opening[:, None, None, None]
    shown[(slice(None), *EYES)] += 30 * np.sin(np.arange(frames) / 3)[:, None, None, None]
    shown += np.random.default_rng(seed + 100).normal(0, 1, shown.shape)
    samples = np.repeat(level, RATE // 100)
    voice = 0.3 * samples * np.random.default_rng(seed).normal(0, 1, len(samples)).clip(-3, 3) / 3
    return Made(shown.round().clip(0, 255).astype(np.uint8), voice[None].astype(np.float32))


def judge_of(video: Made, **told) -> Judge:
    judged = Judged(**{"fps": FPS, "clip_frames": CLIP, "block": 12, **told})
    return Judge(judged, lambda: Loudness.of(video.voice, RATE))


def judgement(video: Made, **told) -> Judgement:
    judge = judge_of(video, **told)
    judge.take(video.frames)
    return Judgement.of(judge)


def faults(video: Made, **told) -> dict[int, list[str]]:
    return {clip: [check.name for check in checks] for clip, checks in judgement(video, **told).faults.items()}


def test_a_video_without_a_fault_has_none_and_its_mouth_is_in_time():
    found = judgement(made())
    assert not found.faults
    lags = [clip.measures.lag for clip in found.clips if clip.measures.lag is not None]
    assert len(lags) == CLIPS and all(abs(lag) <= 0.5 for lag in lags)
    assert all((clip.measures.sync or 0) > 0.8 for clip in found.clips)
    assert found.headline == f"Clip judge: no fault was found, clips looked at: {CLIPS}"


@pytest.mark.parametrize("shift", [-3, 2])
def test_a_lag_is_told_in_frames_with_its_sign(shift: int):
    """The mouth comes after the sound when the sound is moved to the front."""
    video = made()
    moved = np.roll(video.voice, -shift * RATE // int(FPS), axis=1)
    found = judgement(replace(video, voice=moved))
    inner = found.clips[1:-1]
    assert all(abs((clip.measures.lag or 0) - shift) <= 0.5 for clip in inner)
    assert {clip.clip for clip in inner} <= set(found.faults)


def frozen_mouth(video: Made) -> Made:
    frames = video.frames.copy()
    frames[(slice(2 * CLIP, 3 * CLIP), *MOUTH)] = frames[(2 * CLIP, *MOUTH)]
    return replace(video, frames=frames)


def other_person(video: Made) -> Made:
    return replace(video, frames=between(video.frames, made(person=9).frames, CLIP))


def between(frames: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """With `count` frames of others at the beginning of the third clip."""
    frames = frames.copy()
    frames[2 * CLIP : 2 * CLIP + count] = others[2 * CLIP : 2 * CLIP + count]
    return frames


def colour(video: Made) -> Made:
    others = video.frames.astype(int) + np.array([0, 0, 8])
    return replace(video, frames=between(video.frames, others.clip(0, 255).astype(np.uint8), CLIP))


def blurred(video: Made) -> Made:
    others = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in video.frames])
    return replace(video, frames=between(video.frames, others, CLIP))


def repeated(video: Made) -> Made:
    return replace(video, frames=between(video.frames, np.repeat(video.frames[[2 * CLIP]], len(video.frames), 0), 12))


def talking_in_silence(video: Made) -> Made:
    """The mouth of other words: it follows nothing."""
    frames, place = video.frames.copy(), (slice(2 * CLIP, 3 * CLIP), *MOUTH)
    frames[place] = made(seed=7).frames[place]
    return replace(video, frames=frames)


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        (frozen_mouth, {"movement of the mouth"}),
        (talking_in_silence, {"mouth and voice"}),
        (other_person, {"person", "seam"}),
        (colour, {"colour", "colour at once"}),
        (blurred, {"sharpness"}),
        (repeated, {"repeated frames"}),
    ],
)
def test_a_fault_is_found_in_its_clip_by_the_check_that_is_for_it(fault: Callable[[Made], Made], names: set[str]):
    found = faults(fault(made()))
    assert names <= set(found[2])
    # What comes back after the clip is a step into the next one.
    assert set(found) <= {2, 3}


def test_with_the_picture_the_first_clip_may_be_the_wrong_one():
    video = made()
    wrong = replace(video, frames=np.concatenate([made(person=9).frames[:CLIP], video.frames[CLIP:]]))
    picture = video.frames[0]
    assert "person" in faults(wrong, picture=picture)[0] and 2 not in faults(wrong, picture=picture)
    # Without one, the first clip is what all others are compared with.
    assert "person" not in faults(wrong).get(0, []) and "person" in faults(wrong)[2]
    assert set(faults(made(person=9), picture=picture)) == set(range(CLIPS))


def test_where_a_script_changes_the_picture_the_person_may_be_another():
    video = made()
    changed = replace(video, frames=np.concatenate([video.frames[: 3 * CLIP], made(person=9).frames[3 * CLIP :]]))
    assert "person" in faults(changed)[3] and "person" in faults(changed)[4]
    told = faults(changed, changes=frozenset({3}))
    assert not any("person" in names or "colour" in names for names in told.values())


def test_it_does_not_matter_how_many_frames_come_at_a_time():
    video = made(clips=AROUND + 2)
    whole = judgement(video)
    for size in (1, 12, 50):
        judge = judge_of(video)
        for start in range(0, len(video.frames), size):
            judge.take(video.frames[start : start + size])
        assert Judgement.of(judge) == whole


def test_no_more_than_some_clips_are_kept():
    video = made(clips=AROUND + 4)
    judge, most = judge_of(video), 0
    for frame in video.frames:
        judge.take(frame[None])
        most = max(most, len(judge._around))  # noqa: SLF001 - what is kept is what is tested
    assert most == AROUND and len(Judgement.of(judge).clips) == AROUND + 4


def test_a_sound_in_pieces_of_any_length_has_one_loudness():
    voice = made().voice
    pieces = LoudnessMeter(RATE)
    for part in np.split(voice, [1, 79, 80, 5000, 5001], axis=1):
        pieces.add(part)
    assert np.array_equal(pieces.loudness().cells, Loudness.of(voice, RATE).cells)


def test_where_nobody_speaks_nothing_is_said_of_the_mouth():
    video = made()
    found = judgement(replace(video, voice=np.zeros_like(video.voice)))
    assert all(clip.measures.sync is None and clip.measures.moves is None for clip in found.clips)
    assert found.notes()[0] == "Nobody is heard, so mouth and voice were not compared"
    assert "no face cascades" in found.notes()[1]


def test_clips_are_counted_over_the_whole_video():
    """A segment, which begins at clip 10 of its video, and a video whose first frames are left out."""
    video = made()
    assert [clip.clip for clip in judgement(video, first_frame=10 * CLIP).clips] == list(range(10, 10 + CLIPS))
    cut = replace(video, frames=video.frames[3:])
    found = judgement(cut, skipped=3)
    assert [clip.frames for clip in found.clips] == [CLIP - 3, *[CLIP] * (CLIPS - 1)]
    assert all(abs(clip.measures.lag or 0) <= 0.5 for clip in found.clips) and not found.faults


def test_a_file_is_judged_as_its_frames_are(tmp_path: Path):
    video = other_person(made())
    path = tmp_path / "a.mp4"
    with VideoWriter(path, PictureTrack(64, 64, FPS, "h264", "auto", 12), AudioTrack(RATE, 1)) as writer:
        writer.write_frames(torch.from_numpy(video.frames))
        writer.write_audio(torch.from_numpy(video.voice))
    seen: list[int] = []
    watched = Watched(lambda done, total: seen.append(done))
    found = judge_file(file_facts(path), Clips(CLIP), None, None, watched)
    assert [clip for clip, checks in found.faults.items() if "person" in [check.name for check in checks]] == [2]
    assert all(abs(clip.measures.lag or 0) <= 0.5 for clip in found.clips)
    assert seen == list(range(12, CLIPS * CLIP + 1, 12))
    silent = judge_file(file_facts(path), Clips(CLIP), None, Loudness(np.zeros(10, np.float32)), Watched())
    assert not silent.heard


def test_a_plan_says_where_the_clips_of_a_file_are():
    plan = ClipPlan(num_clip=4, infer_frames=24, fps=FPS, segment_clips=2, segment_index=1)
    facts = file_facts_of(48, FPS)
    assert Clips.of_plan(plan, facts) == Clips(24, first=2, starts=False)
    doubled = Clips.of_plan(plan, file_facts_of(96, 2 * FPS))
    assert (doubled.frames, doubled.block) == (48, 24)
    assert Clips.of_plan(replace(plan, segment_clips=0, segment_index=0), file_facts_of(93, FPS)).skipped == 3
    with pytest.raises(InputError, match="not the plan's video"):
        Clips.of_plan(plan, file_facts_of(48, Fraction(24)))


def file_facts_of(frames: int, fps: Fraction):
    from liveavatar_runtime.media.parts import Part

    facts = {"name": "a", "path": Path("a.mp4"), "frames": frames, "fps": fps, "width": 64, "height": 64}
    more = {"codec": "h264", "pixel_format": "yuv420p", "extradata": b"", "start": Fraction(0), "regular": True}
    return Part(**facts, **more, metadata={})


def test_the_report_names_clips_reasons_and_what_to_do():
    found = judgement(frozen_mouth(other_person(made())))
    text = found.as_markdown()
    assert "| the person looks different from before | 3 | Make the clip again" in text
    assert found.told()[0].startswith("the mouth") and found.time(2) == "0:00:02.88"
    values = found.as_values()
    assert values["clips"] == CLIPS and values["flagged"][0]["clip"] == 3  # type: ignore[index]
    assert "usual" in found.section() and f"**{found.headline}**" in found.section()


def test_the_chart_is_red_where_a_clip_looks_wrong():
    pictures = [np.asarray(draw_judgement(judgement(video))) for video in (made(), other_person(made()))]
    red = [((picture == (200, 44, 44)).all(axis=-1)).sum() for picture in pictures]
    assert red[0] == 0 and red[1] > 1000


@pytest.mark.parametrize(
    ("clips", "text"), [([], ""), ([2], "3"), ([8, 2, 6, 7], "3, 7-9"), (list(range(1800)), "1-1800")]
)
def test_numbers_are_written_as_people_count(clips: list[int], text: str):
    assert numbers_text(clips) == text


@pytest.mark.parametrize(
    ("before", "onwards", "clips", "text"),
    [
        ("", False, [2, 6], "3: 1, 7: 1"),
        ("", True, [6, 2], "3-: 1"),
        ("", True, [], ""),
        ("3: 1, 5: 2", False, [2], "3: 2, 5: 2"),
        ("2-: 1, 3-: 4, 5: 2", True, [2], "2-: 1, 3-: 5"),
        ("3-: 4", False, [2], "3-: 4, 3: 5"),
    ],
)
def test_takes_ask_for_the_clips_again(before: str, onwards: bool, clips: list[int], text: str):
    written = Again(onwards, parse_takes(before)).text(clips)
    assert written == text
    assert parse_takes(written) is not None
