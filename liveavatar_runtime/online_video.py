"""A stream of latent blocks to a video file with sound, written while it is made."""

from collections.abc import Callable, Generator, Iterator
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
from .finishing.chain import AS_DECODED, FinishingChain, FinishingRun
from .media.frame_writer import FrameWriter
from .media.images import to_float_frames, to_uint8_frames, to_uint16_frames
from .media.threads import ThreadPipeline
from .out_of_memory import ram_told
from .planning.kept_frames import PIXEL_BYTES, decoded_shape
from .sampling.plan import ClipPlan
from .sampling.run import LatentBlock
from .stage_times import ENCODER, SAMPLER, VAE, StageTimes, VideoTimes
from .texts import gib

if TYPE_CHECKING:
    from .vae.online_decoder import VideoStart


class BlockStream(Protocol):
    """Blocks of a plan (`spool.latent_stream.LatentStream`, `live.stream.LiveLatentStream`)."""

    plan: ClipPlan
    writing_seconds: float

    def __iter__(self) -> Generator[LatentBlock, None, None]: ...


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
    """What has been written: `frames`, the last one [H, W, 3] and, if asked for, all [T, H, W, 3], float 0..1, as they
    are in the file, without alpha; and how long what took, since this was made."""

    path: Path
    frames: int = 0
    last_frame: Tensor | None = None
    kept: Tensor | None = None
    times: VideoTimes = field(default_factory=VideoTimes)


@dataclass(frozen=True)
class Output:
    """What is written to, and what is told of it."""

    writer: FrameWriter
    video: OnlineVideo


@dataclass(frozen=True)
class WriteOptions:
    """`skipped` leading frames are not in the picture, and their sound is left out as well; `keep_frames`: also in
    memory; `overlap`: decode and encode beside the sampling; `finishing`: what becomes of frames once decoded."""

    skipped: int = 0
    keep_frames: bool = False
    overlap: bool = True
    hooks: Hooks = Hooks()
    finishing: FinishingChain = AS_DECODED


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


@dataclass(frozen=True)
class _Piece:
    """Frames for the file, float32 [3 or 4, T, H, W] in -1..1, if there are any; whether a block ends with them."""

    pixels: Tensor | None
    ends_block: bool = True


@dataclass
class _Work:
    """The two halves behind the sampler: decoding a block, and writing what was decoded, up to `total` frames.

    A block that is None stands for the end of all: what the finishing has still kept. `finisher`: None without steps.
    `wanted`: frames that are to be finished.
    """

    decoder: BlockDecoder
    audio: Voice
    writer: FrameWriter
    video: OnlineVideo
    fps: Fraction
    """Of the file."""
    before: int
    """Frames of the whole video, as in the file, before the first one that is written."""
    total: int
    on_encoded: Callable[[], None]
    finisher: FinishingRun | None = None
    wanted: int = 0

    def decode(self, block: LatentBlock | None) -> "_Piece | Iterator[_Piece]":
        return self._finished(None if block is None else self.decoder.decode(block.latents))

    def stages(self) -> list[Callable[[Any], Any]]:
        """What is done one after the other, each with what the one before returned: a block to frames in the file."""
        decoder = self.decoder
        if not isinstance(decoder, RemoteDecoding):
            return [self.decode, self.encode]

        def ask(block: LatentBlock | None) -> Any:
            return None if block is None else decoder.ask(block.latents)

        def take(asked: Any) -> "_Piece | Iterator[_Piece]":
            return self._finished(None if asked is None else decoder.take(asked))

        return [ask, take, self.encode]

    def _finished(self, pixels: Tensor | None) -> "_Piece | Iterator[_Piece]":
        return _Piece(pixels) if self.finisher is None else self._finish(self.finisher, pixels)

    def _finish(self, finisher: FinishingRun, pixels: Tensor | None) -> "Iterator[_Piece]":
        """Frame by frame, so that few finished ones are in memory; those that the plan cuts are left out before."""
        if pixels is not None:
            pixels = pixels[:, : self.wanted]
            self.wanted -= pixels.shape[1]
        for made in finisher.flush() if pixels is None else finisher.finish(pixels):
            self.video.times.finishing = finisher.seconds
            yield _Piece(made, ends_block=False)
        if pixels is not None:
            yield _Piece(None)

    def stage_times(self) -> list[StageTimes]:
        """Of each of the stages; asking takes no time, and waiting for an answer is the VAE's work."""
        asking, stages = StageTimes(clock=self.video.times.clock), self.video.times.stages
        remote = isinstance(self.decoder, RemoteDecoding)
        return [*([asking] if remote else []), stages[VAE], stages[ENCODER]]

    def give_up(self) -> None:
        if isinstance(self.decoder, RemoteDecoding):
            self.decoder.close()

    def encode(self, piece: _Piece) -> None:
        if piece.pixels is not None:
            self._write(piece.pixels)
        if piece.ends_block:
            self.video.times.block_written()
        self.on_encoded()

    def _write(self, pixels: Tensor) -> None:
        """The sound of every frame goes with it, or as much ahead of it as the writer wants; past the end of the track
        the writer puts silence."""
        video = self.video
        pixels = pixels[:, : self.total - video.frames]
        end = video.frames + pixels.shape[1]
        self.writer.write_audio(self._sound(video.frames, end))
        self.writer.write_frames(to_uint8_frames(pixels) if self.writer.bits == 8 else to_uint16_frames(pixels))
        if video.kept is not None:
            video.kept[video.frames : end] = to_float_frames(pixels)
        video.last_frame = to_float_frames(pixels[:, -1:])[0]
        video.frames = end

    def _sound(self, first: int, end: int) -> Tensor:
        """What the writer is given with frames [first, end) of those that are written."""
        rate, ahead = self.audio.sample_rate, self.writer.sound_ahead
        start = samples_for_frames(self.before + first, self.fps, rate) + (ahead if first else 0)
        return self.audio.sound(start, samples_for_frames(self.before + end, self.fps, rate) + ahead)


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
    stream: BlockStream, decoder: BlockDecoder, audio: Voice, output: Output, options: WriteOptions = ALL_FRAMES
) -> None:
    """Decode block by block into the file; `output.video` is brought up to date after each, also when this raises.

    The caller's thread samples. With `overlap` a second one decodes and a third one encodes meanwhile; the file is the
    same as without. A decoder on a device that no second thread may use (`device_kinds.takes_threads`) works in the
    caller's thread, between two blocks. An error in any of them ends all three with that error, and what was decoded by
    then is written. A decoder in another process has at most three blocks under way. A plan's segment has its own part
    of the sound. Of the frames that the plan cuts at the end none is written; their blocks are sampled all the same, so
    that the clip is kept whole.
    """
    plan, video, finishing = stream.plan, output.video, options.finishing
    video.times.start()
    shape, factor = finishing.shape(decoded_shape(plan)), finishing.frames_factor
    wanted = plan.segment.frames - options.skipped
    total = wanted * factor
    if options.keep_frames:
        off = f"return_frames off in Online VAE Decode (frees {gib(total * shape.height * shape.width * PIXEL_BYTES)})"
        with ram_told(f"making room for {total} frames of {shape.width}x{shape.height}", off):
            video.kept = torch.empty(total, shape.height, shape.width, 3)
    before = (plan.segment.first_frame + options.skipped) * factor
    work = _Work(decoder, audio, output.writer, video, shape.fps, before, total, options.hooks.on_encoded)
    if finishing.steps:
        work.finisher, work.wanted = finishing.begin(decoded_shape(plan), video.times.clock), wanted
        video.times.finishing = 0.0
    reporter = _Reporter(video, total, options.hooks)
    # Closed at once when something here fails: a traceback would keep the sampler, and with it the device's memory.
    with ExitStack() as stack:
        stack.callback(_note_writing, video.times, stream, stream.writing_seconds, output.writer)
        blocks = stack.enter_context(closing(iter(stream)))
        shown = _shown(blocks, video.times, plan.frames)
        if options.overlap:
            _overlapped(shown, work, reporter, _one_thread(decoder, finishing))
        else:
            _in_turn(shown, work, reporter)
    reporter.poll()


def finish_file(output: Output) -> None:
    """Close the file, which counts as the encoder's work."""
    times = output.video.times
    with times.stages[ENCODER].measured("worked"):
        output.writer.close()
    times.file = output.writer.writing_seconds


def _note_writing(times: VideoTimes, stream: BlockStream, before: float, writer: FrameWriter) -> None:
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


def _one_thread(decoder: BlockDecoder, finishing: FinishingChain) -> bool:
    """Whether the caller's thread must decode, as no other one may use a device that is needed for it."""
    here = isinstance(decoder, OnDevice)
    devices = {*finishing.devices, decoder.device} if isinstance(decoder, OnDevice) else set[torch.device]()
    return here and not all(takes_threads(device) for device in devices)


def _in_turn(blocks: Iterator[LatentBlock | None], work: _Work, reporter: _Reporter) -> None:
    times = work.video.times.stages
    for block in _with_end(blocks, work):
        if block is not None:
            for piece in _pieces(work.decode, times[VAE], block.item):
                _timed(work.encode, times[ENCODER], piece)
                reporter.wait()
        reporter.wait()


def _overlapped(blocks: Iterator[LatentBlock | None], work: _Work, reporter: _Reporter, in_turn: bool) -> None:
    """in_turn: decoding is the caller's thread's."""
    first, *others = work.stages()
    times, stages = work.stage_times(), work.video.times.stages
    functions = others if in_turn else [first, *others]
    pipeline = ThreadPipeline(functions, meanwhile=reporter.wait, give_up=work.give_up, times=times[-len(functions) :])

    def put(item: Any) -> None:
        with stages[SAMPLER].measured("for_room"):
            pipeline.put(item)

    reporter.check_work = pipeline.check
    with pipeline, reporter.hooks.while_sampling(reporter.poll):
        for block in _with_end(blocks, work):
            if block is not None:
                for item in _pieces(first, stages[VAE], block.item) if in_turn else [block.item]:
                    put(item)
                    reporter.wait()
            reporter.wait()


@dataclass(frozen=True)
class _Item:
    """What the stages get: a block, or the end of all."""

    item: LatentBlock | None


def _with_end(blocks: Iterator[LatentBlock | None], work: _Work) -> Iterator[_Item | None]:
    """The blocks of `_shown`, and the end where somebody waits for it."""
    for block in blocks:
        yield None if block is None else _Item(block)
    if work.finisher is not None:
        yield _Item(None)


def _pieces(function: Callable[[Any], Any], times: StageTimes, item: Any) -> Iterator[Any]:
    """What a stage makes of an item, its work on each timed."""
    made = _timed(function, times, item)
    if not isinstance(made, Iterator):
        yield made
        return
    none_left = object()
    while (piece := _timed(lambda pieces: next(pieces, none_left), times, made)) is not none_left:
        yield piece


def _timed(function: Callable[[Any], Any], times: StageTimes, item: Any) -> Any:
    with times.measured("worked"):
        return function(item)


def sound_of_frames(audio: Voice, fps: Fraction, first: int, end: int) -> Tensor:
    """Waveform [C, S] of video frames [first, end); shorter where the track is over."""
    return audio.sound(*(samples_for_frames(frame, fps, audio.sample_rate) for frame in (first, end)))
