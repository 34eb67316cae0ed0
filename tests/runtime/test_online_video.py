"""Latent blocks to a file: the same with and without threads, errors of every part, the sound of a segment."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from made_blocks import MadeRun
from media_files import decoded_sound, video_writer
from video_facts import probe

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.media.video import AudioTrack, PictureTrack, VideoWriter
from liveavatar_runtime.online_video import Hooks, OnlineVideo, Output, WriteOptions, skipped_frames, write_online
from liveavatar_runtime.planning.kept_frames import MAX_KEPT_CLIPS, check_kept
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.spool.latent_stream import LatentStream
from liveavatar_runtime.vae import PlacedVAE, VaeConfig, WanVAE
from liveavatar_runtime.vae.online_decoder import OnlineDecoder, VideoStart

PLAN = ClipPlan(num_clip=3, infer_frames=24, width=64, height=64, keep_aspect=False, fps=Fraction(16))
RATE = 48000


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return WanVAE(VaeConfig(dim=8, num_res_blocks=1)).eval().requires_grad_(False)


def latents(block: int) -> torch.Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(block))


def stream(plan: ClipPlan = PLAN, fail_at: int | None = None, between: Callable[[], None] | None = None):
    def make(block: int) -> torch.Tensor:
        if between is not None:
            for _ in range(20):
                time.sleep(0.01)
                between()
        if block == fail_at:
            raise InterruptedError("the button")
        return latents(block)

    return LatentStream(plan, latents(-1), MadeRun.start(make))


def voice(plan: ClipPlan = PLAN) -> AvatarAudio:
    samples = int(plan.duration * RATE)
    sound = 0.3 * torch.sin(torch.arange(samples) / 20)[None]
    return AvatarAudio(torch.zeros(1, 1, 10, 4), sound, RATE)


def write(
    path: Path, vae: WanVAE, given: LatentStream | None = None, start: VideoStart = "hold", decoder=None, **options
):
    given = given or stream()
    plan = given.plan
    video = OnlineVideo(path)
    decoder = decoder or OnlineDecoder(PlacedVAE(vae, torch.device("cpu"), torch.float32), given.priming(39), start)
    with video_writer(path, plan.width, plan.height, plan.fps, RATE) as writer:
        write_online(
            given, decoder, voice(plan), Output(writer, video), WriteOptions(skipped_frames(start, plan), **options)
        )
    return video


@pytest.mark.parametrize("start", ["hold", "trim"])
def test_threads_change_nothing(tmp_path, vae, start):
    paths = [tmp_path / "one.mp4", tmp_path / "three.mp4"]
    videos = [
        write(p, vae, start=start, keep_frames=True, overlap=o) for p, o in zip(paths, (False, True), strict=True)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    frames = PLAN.frames - (3 if start == "trim" else 0)
    for video in videos:
        assert video.frames == frames and video.kept is not None and video.last_frame is not None
        assert video.kept.shape == (frames, 64, 64, 3)
        assert videos[0].kept is not None and torch.equal(video.kept, videos[0].kept)
        assert torch.equal(video.last_frame, video.kept[-1])


def test_progress_comes_in_the_callers_thread_and_ends_at_the_total(tmp_path, vae):
    import threading

    seen, threads = [], set()

    def on_frames(done: int, total: int) -> None:
        seen.append((done, total))
        threads.add(threading.get_ident())

    write(tmp_path / "a.mp4", vae, hooks=Hooks(on_frames))
    assert seen[-1] == (72, 72) and seen == sorted(set(seen)) and threads == {threading.get_ident()}


@pytest.mark.parametrize("overlap", [True, False])
def test_an_interruption_of_the_sampler_keeps_every_finished_block(tmp_path, vae, overlap):
    with pytest.raises(InterruptedError, match="the button"):
        write(tmp_path / "a.mp4", vae, stream(fail_at=4), overlap=overlap)
    assert probe(tmp_path / "a.mp4").frames == 4 * 12


def test_an_interruption_is_seen_while_a_block_is_decoded(tmp_path, vae):
    begun, pressed = [], threading.Event()

    class Slow(OnlineDecoder):
        def decode(self, latents):
            begun.append(latents)
            assert len(begun) < 3 or pressed.wait(60)
            return super().decode(latents)

    def check() -> None:
        if len(begun) == 3:
            pressed.set()
            raise InterruptedError("the button")

    slow = Slow(PlacedVAE(vae, torch.device("cpu"), torch.float32), stream().priming(39), "hold")
    with pytest.raises(InterruptedError):
        write(tmp_path / "a.mp4", vae, decoder=slow, hooks=Hooks(check=check))
    assert pressed.is_set() and 24 <= probe(tmp_path / "a.mp4").frames < 72


def test_a_failing_decoder_ends_the_sampling_of_the_next_block(tmp_path, vae):
    """Between two steps of the sampler, not only when its block is done."""

    class Failing(OnlineDecoder):
        def decode(self, latents):
            if torch.equal(latents, blocks[1]):
                failed.set()
                raise MemoryError("no room")
            return super().decode(latents)

    blocks = [latents(0), latents(1)]
    polls: list[Callable[[], None]] = []
    failed = threading.Event()

    @contextmanager
    def while_sampling(poll: Callable[[], None]) -> Iterator[None]:
        polls.append(poll)
        try:
            yield
        finally:
            polls.clear()

    steps = 0

    def between() -> None:
        nonlocal steps
        steps += 1
        if steps > 45:
            # However busy the machine is: the other thread has failed, and has told so soon after.
            failed.wait(60)
            time.sleep(0.2)
        for poll in polls:
            poll()

    given = stream(between=between)
    failing = Failing(PlacedVAE(vae, torch.device("cpu"), torch.float32), given.priming(39), "hold")
    with pytest.raises(MemoryError, match="no room"):
        write(tmp_path / "a.mp4", vae, given, decoder=failing, hooks=Hooks(while_sampling=while_sampling))
    assert 40 < steps < 60, "20 steps of two blocks, and no more than a part of the third's"
    assert probe(tmp_path / "a.mp4").frames == 12 and not polls


def test_an_error_of_the_writer_ends_all(tmp_path, vae):
    class Full(VideoWriter):
        def write_frames(self, frames):
            if self.frames_written == 24:
                raise OSError("disk full")
            super().write_frames(frames)

    given = stream()
    decoder = OnlineDecoder(PlacedVAE(vae, torch.device("cpu"), torch.float32), given.priming(39), "hold")
    with pytest.raises(OSError, match="disk full"):
        with Full(tmp_path / "a.mp4", PictureTrack(64, 64, PLAN.fps), AudioTrack(RATE)) as writer:
            write_online(given, decoder, voice(), Output(writer, OnlineVideo(tmp_path / "a.mp4")))
    assert probe(tmp_path / "a.mp4").frames == 24


def test_a_later_segment_has_its_own_sound_and_no_held_frames(tmp_path, vae):
    plan = replace(PLAN, segment_clips=1, segment_index=1)
    assert skipped_frames("trim", plan) == 0 and skipped_frames("trim", PLAN) == 3
    first = plan.segment.first_frame

    given = stream(plan)
    decoder = OnlineDecoder(PlacedVAE(vae, torch.device("cpu"), torch.float32), given.priming(39), None)
    video = OnlineVideo(tmp_path / "a.mp4")
    sound = torch.zeros(1, int(plan.duration * RATE))
    click = first * RATE // 16 + RATE // 2
    sound[0, click] = 0.9
    with video_writer(video.path, 64, 64, plan.fps, RATE) as writer:
        write_online(given, decoder, AvatarAudio(torch.zeros(1, 1, 10, 4), sound, RATE), Output(writer, video))
    assert video.frames == probe(video.path).frames == 24
    heard, rate, _ = decoded_sound(video.path)
    assert abs(int(np.abs(heard[0]).argmax()) / rate - 0.5) < 0.001


def test_keeping_all_frames():
    assert check_kept(PLAN, 2**40) is None
    big = replace(PLAN, num_clip=100, infer_frames=48, width=704, height=384)
    note = check_kept(big, 64 * 2**30)
    assert note == "return_frames keeps all 4800 frames of 704x384 in memory: 14.5 GiB of 64.0 GiB free."
    with pytest.raises(InputError, match=r"4800 frames of 704x384.*14\.5 GiB, and 8\.0 GiB are free"):
        check_kept(big, 8 * 2**30)
    with pytest.raises(InputError, match=f"more than {MAX_KEPT_CLIPS} clips, this plan has 101"):
        check_kept(replace(PLAN, num_clip=101), 2**40)
    segment = replace(PLAN, num_clip=300, segment_clips=100, segment_index=2)
    assert check_kept(segment, 2**40) is None


@pytest.mark.parametrize(("cut", "start", "overlap"), [(1, "hold", True), (13, "trim", True), (23, "hold", False)])
def test_frames_that_the_plan_cuts_are_sampled_and_not_written(tmp_path, vae, cut, start, overlap):
    """The file and the kept frames are those of the whole, up to the cut; the clip is in the spool all the same."""
    whole = write(tmp_path / "whole.mp4", vae, start=start, keep_frames=True)
    plan = replace(PLAN, cut_frames=cut)
    given, seen = stream(plan), []
    video = write(
        tmp_path / "cut.mp4",
        vae,
        given,
        start,
        keep_frames=True,
        overlap=overlap,
        hooks=Hooks(lambda *n: seen.append(n)),
    )
    frames = PLAN.frames - cut - skipped_frames(start, plan)
    facts = probe(video.path)
    assert video.frames == facts.frames == frames and seen[-1] == (frames, frames)
    assert abs(float(facts.audio_duration or 0) - frames / 16) < 1 / 32
    assert whole.kept is not None and video.kept is not None and video.last_frame is not None
    assert torch.equal(video.kept, whole.kept[:frames]) and torch.equal(video.last_frame, whole.kept[frames - 1])
    assert given.finished_clips == PLAN.num_clip


def test_trim_needs_more_frames_than_it_leaves_out():
    with pytest.raises(InputError, match="leaves out the first 3 frames, and this video has 3"):
        skipped_frames("trim", replace(PLAN, num_clip=1, cut_frames=21))
    assert skipped_frames("hold", replace(PLAN, num_clip=1, cut_frames=23)) == 0


class OnMps(OnlineDecoder):
    """Computes on the processor and says that it is on an Apple GPU; notes its threads."""

    threads: set[int]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        self.threads.add(threading.get_ident())
        try:
            self.device, on = torch.device("cpu"), self.device
            return super().decode(latents)
        finally:
            self.device = on


def test_a_device_for_one_thread_decodes_in_turn_with_sampling(tmp_path, vae):
    """With MPS two threads abort the process: the sampler's thread decodes, and the file is the same."""
    write(tmp_path / "beside.mp4", vae)
    decoder = OnMps(PlacedVAE(vae, torch.device("cpu"), torch.float32), stream().priming(39), "hold")
    decoder.device, decoder.threads = torch.device("mps"), set()
    write(tmp_path / "in_turn.mp4", vae, decoder=decoder)
    assert decoder.threads == {threading.get_ident()}
    assert (tmp_path / "beside.mp4").read_bytes() == (tmp_path / "in_turn.mp4").read_bytes()
