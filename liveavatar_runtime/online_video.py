"""A stream of latent blocks to a video file with sound, written while it is made."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .audio.voice import Voice
from .device_kinds import takes_threads
from .duration import FRAMES_PER_BLOCK, samples_for_frames
from .errors import InputError
from .media.images import to_float_frames, to_uint8_frames, to_uint16_frames
from .media.threads import ThreadPipeline
from .media.video import VideoWriter
from .out_of_memory import ram_told
from .sampling.plan import ClipPlan
from .sampling.run import LatentBlock
from .spool.latent_stream import LatentStream
from .stage_times import ENCODER, SAMPLER, VAE, StageTimes, VideoTimes
from .texts import gib

if TYPE_CHECKING:
    from .vae.online_decoder import VideoStart

MAX_KEPT_CLIPS = 100
"""Longer videos are never kept as images."""
MANY_BYTES = 4 * 2**30


class BlockDecoder(Protocol):
    """A video's blocks to frames, in order (`vae.online_decoder.OnlineDecoder`)."""

    def decode(self, latents: Tensor) -> Tensor:
        """latents [16, 3, h, w] in the model's space -> pixels float32 [3, frames, H, W] in -1..1, on the CPU."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """A decoder in this process that says where it computes."""

    device: torch.device


@runtime_checkable
class RemoteDecoding(Protocol):
    """A decoder in another process: the next blocks can be on their way while the frames of one are waited for."""

    def ask(self, latents: Tensor) -> Any: ...

    def take(self, asked: Any) -> Tensor: ...

    def close(self) -> None:
        """Wait for nothing more: `take` raises, also one that is waiting in another thread."""
        ...


@dataclass(frozen=True)
class Hooks:
    """What the caller does meanwhile; everything is called in the caller's thread and may raise to stop.

    on_frames(frames written, frames in all): after blocks were written. check(): about every 0.05 s while the caller
    waits. while_sampling(poll): entered around the work; what samples should call `poll()` between its steps, so
    that the sampling of a block does not hide an error or the progress of the other threads. Only on_encoded() is
    called by the thread that writes the file, whenever it has got more.
    """

    on_frames: Callable[[int, int], None] = lambda done, total: None
    check: Callable[[], None] = lambda: None
    while_sampling: Callable[[Callable[[], None]], AbstractContextManager[None]] = lambda poll: nullcontext()
    on_encoded: Callable[[], None] = lambda: None


@dataclass
class OnlineVideo:
    """What has been written: `frames`, the last one [H, W, 3] and, if asked for, all [T, H, W, 3], float 0..1; and how
    long what took, since this was made."""

    path: Path
    frames: int = 0
    last_frame: Tensor | None = None
    kept: Tensor | None = None
    times: VideoTimes = field(default_factory=VideoTimes)


@dataclass(frozen=True)
class Output:
    """The file that is written, and what is told of it."""

    writer: VideoWriter
    video: OnlineVideo


@dataclass(frozen=True)
class WriteOptions:
    """`skipped` leading frames are not in the picture, and their sound is left out as well; `keep_frames`: also in
    memory; `overlap`: decode and encode beside the sampling."""

    skipped: int = 0
    keep_frames: bool = False
    overlap: bool = True
    hooks: Hooks = Hooks()


ALL_FRAMES = WriteOptions()


def skipped_frames(start: "VideoStart", plan: ClipPlan) -> int:
    """Frames that are left out at the start of this plan's segment. Raises InputError when no others are left."""
    from .vae.online_decoder import START_FRAMES

    if start != "trim" or not plan.segment.starts_video:
        return 0
    if plan.segment.frames <= START_FRAMES:
        raise InputError(
            f"start trim leaves out the first {START_FRAMES} frames, and this video has {plan.segment.frames}, as it "
            "ends with the voice. Set start to hold, or end of Clip Scheduler to clip."
        )
    return START_FRAMES


def check_kept(plan: ClipPlan, available: int) -> str | None:
    """A note for the user when keeping all frames takes much of the `available` bytes of memory.

    Raises InputError when it cannot be done: above 100 clips, or with too little memory.
    """
    frames, clips = plan.segment.frames, len(plan.segment.clips)
    needed = frames * plan.height * plan.width * 3 * 4
    size = f"{frames} frames of {plan.width}x{plan.height}"
    text = f"return_frames keeps all {size} in memory: {gib(needed)}"
    if clips > MAX_KEPT_CLIPS:
        raise InputError(
            f"{text}. It is refused for more than {MAX_KEPT_CLIPS} clips, this plan has {clips}. Switch it "
            "off and use the video output, which is the file."
        )
    if needed > available:
        raise InputError(
            f"{text}, and {gib(available)} are free. Switch it off and use the video output, or make fewer "
            "clips or a smaller picture."
        )
    return f"{text} of {gib(available)} free." if needed > MANY_BYTES else None


@dataclass
class _Work:
    """The two halves behind the sampler: decoding a block, and writing what was decoded, up to `total` frames."""

    decoder: BlockDecoder
    audio: Voice
    writer: VideoWriter
    video: OnlineVideo
    fps: Fraction
    before: int
    """Frames of the whole video before the first one that is written."""
    total: int
    on_encoded: Callable[[], None]

    def decode(self, block: LatentBlock) -> Tensor:
        return self.decoder.decode(block.latents)

    def stages(self) -> list[Callable[[Any], Any]]:
        """What is done one after the other, each with what the one before returned: a block to frames in the file."""
        decoder = self.decoder
        if not isinstance(decoder, RemoteDecoding):
            return [self.decode, self.encode]

        def ask(block: LatentBlock) -> Any:
            return decoder.ask(block.latents)

        return [ask, decoder.take, self.encode]

    def stage_times(self) -> list[StageTimes]:
        """Of each of the stages; asking takes no time, and waiting for an answer is the VAE's work."""
        asking, stages = StageTimes(clock=self.video.times.clock), self.video.times.stages
        remote = isinstance(self.decoder, RemoteDecoding)
        return [*([asking] if remote else []), stages[VAE], stages[ENCODER]]

    def give_up(self) -> None:
        if isinstance(self.decoder, RemoteDecoding):
            self.decoder.close()

    def encode(self, pixels: Tensor) -> None:
        """The sound of every frame goes into the file with it; past the end of the track the writer puts silence."""
        video = self.video
        pixels = pixels[:, : self.total - video.frames]
        end = video.frames + pixels.shape[1]
        self.writer.write_frames(to_uint8_frames(pixels) if self.writer.bits == 8 else to_uint16_frames(pixels))
        self.writer.write_audio(sound_of_frames(self.audio, self.fps, video.frames + self.before, end + self.before))
        if video.kept is not None:
            video.kept[video.frames : end] = to_float_frames(pixels)
        video.last_frame = to_float_frames(pixels[:, -1:])[0]
        video.frames = end
        video.times.block_written()
        self.on_encoded()


@dataclass
class _Reporter:
    """Tells the caller about written frames, only in the caller's thread."""

    video: OnlineVideo
    total: int
    hooks: Hooks
    check_work: Callable[[], None] = lambda: None
    reported: int = 0
    thread: int = field(default_factory=get_ident)

    def poll(self) -> None:
        if get_ident() != self.thread:
            return
        self.check_work()
        frames = self.video.frames
        if frames > self.reported:
            self.reported = frames
            self.hooks.on_frames(frames, self.total)

    def wait(self) -> None:
        self.hooks.check()
        self.poll()


def write_online(
    stream: LatentStream, decoder: BlockDecoder, audio: Voice, output: Output, options: WriteOptions = ALL_FRAMES
) -> None:
    """Decode block by block into the file; `output.video` is brought up to date after each, also when this raises.

    The caller's thread samples. With `overlap` a second one decodes and a third one encodes meanwhile; the file is the
    same as without. A decoder on a device that no second thread may use (`device_kinds.takes_threads`) works in the
    caller's thread, between two blocks. An error in any of them ends all three with that error, and what was decoded by
    then is written. A decoder in another process has at most three blocks under way. A plan's segment has its own part
    of the sound. Of the frames that the plan cuts at the end none is written; their blocks are sampled all the same, so
    that the clip is kept whole.
    """
    plan, video = stream.plan, output.video
    video.times.start()
    total = plan.segment.frames - options.skipped
    if options.keep_frames:
        off = f"return_frames off in Online VAE Decode (frees {gib(total * plan.height * plan.width * 3 * 4)})"
        with ram_told(f"making room for {total} frames of {plan.width}x{plan.height}", off):
            video.kept = torch.empty(total, plan.height, plan.width, 3)
    before = plan.segment.first_frame + options.skipped
    work = _Work(decoder, audio, output.writer, video, plan.fps, before, total, options.hooks.on_encoded)
    reporter = _Reporter(video, total, options.hooks)
    # Closed at once when something here fails: a traceback would keep the sampler, and with it the device's memory.
    with ExitStack() as stack:
        stack.callback(_note_writing, video.times, stream, stream.writing_seconds, output.writer)
        blocks = stack.enter_context(closing(iter(stream)))
        shown = _shown(blocks, video.times, plan.frames)
        if options.overlap:
            _overlapped(shown, work, reporter)
        else:
            _in_turn(shown, work, reporter)
    reporter.poll()


def finish_file(output: Output) -> None:
    """Close the file, which counts as the encoder's work."""
    times = output.video.times
    with times.stages[ENCODER].measured("worked"):
        output.writer.close()
    times.file = output.writer.writing_seconds


def _note_writing(times: VideoTimes, stream: LatentStream, before: float, writer: VideoWriter) -> None:
    times.spool, times.file = stream.writing_seconds - before, writer.writing_seconds


def _shown(blocks: Iterator[LatentBlock], times: VideoTimes, frames: int) -> Iterator[LatentBlock | None]:
    """All blocks; None for those that a video of so many frames has nothing of. The time of each is the sampler's."""
    while True:
        with times.stages[SAMPLER].measured("worked"):
            block = next(blocks, None)
        if block is None:
            return
        is_shown = block.index * FRAMES_PER_BLOCK < frames
        times.replayed += is_shown and block.replayed
        yield block if is_shown else None


def _in_turn(blocks: Iterator[LatentBlock | None], work: _Work, reporter: _Reporter) -> None:
    times = work.video.times.stages
    for block in blocks:
        if block is not None:
            _timed(work.encode, times[ENCODER], _timed(work.decode, times[VAE], block))
        reporter.wait()


def _overlapped(blocks: Iterator[LatentBlock | None], work: _Work, reporter: _Reporter) -> None:
    first, *others = work.stages()
    times, stages = work.stage_times(), work.video.times.stages
    in_turn = isinstance(work.decoder, OnDevice) and not takes_threads(work.decoder.device)
    functions = others if in_turn else [first, *others]
    pipeline = ThreadPipeline(functions, meanwhile=reporter.wait, give_up=work.give_up, times=times[-len(functions) :])

    def put(item: Any) -> None:
        with stages[SAMPLER].measured("for_room"):
            pipeline.put(item)

    reporter.check_work = pipeline.check
    with pipeline, reporter.hooks.while_sampling(reporter.poll):
        for block in blocks:
            if block is not None:
                put(_timed(first, stages[VAE], block) if in_turn else block)
            reporter.wait()


def _timed(function: Callable[[Any], Any], times: StageTimes, item: Any) -> Any:
    with times.measured("worked"):
        return function(item)


def sound_of_frames(audio: Voice, fps: Fraction, first: int, end: int) -> Tensor:
    """Waveform [C, S] of video frames [first, end); shorter where the track is over."""
    return audio.waveform[:, slice(*(samples_for_frames(frame, fps, audio.sample_rate) for frame in (first, end)))]
