"""Online VAE Decode at work: a stream of latents becomes a video file, block by block, while it is sampled."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from comfy_api.latest import InputImpl, ui
from torch import Tensor

from liveavatar_runtime.duration import format_duration
from liveavatar_runtime.media.codecs import video_format
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.takes import print_takes

from .avatar import AvatarLatents
from .comfy_types import Hidden, Vae
from .decoder_choice import DecoderChoice, choose_decoder, managed_decoder, open_decoder
from .finishing import NO_FINISHING, Finishing, finished_facts
from .live_stream import Broadcast
from .memory import free_ram
from .notes import Notes
from .output_files import ShownClips, claimed, expanded_prefix, metadata_of, output_file
from .progress import NodeProgress, between_steps, show_text, stop_if_interrupted
from .run_judge import RunJudge
from .run_report import Reporting

if TYPE_CHECKING:
    from liveavatar_runtime.finishing.step import FrameShape
    from liveavatar_runtime.media.codecs import VideoFormat
    from liveavatar_runtime.online_video import BlockDecoder
    from liveavatar_runtime.vae.online_decoder import VideoStart

KEPT = "Finished clips are kept, so they are not sampled again."
"""Told with every failure of the file."""
OpenDecoder = Callable[["VideoStart | None"], AbstractContextManager["BlockDecoder"]]
PLAYERS = {"ffv1": ". Browsers do not play FFV1; VLC, mpv and video editors do."}


@dataclass(frozen=True)
class VideoSettings:
    """Online VAE Decode's widgets, and the finishing that is connected to it."""

    filename_prefix: str
    codec: str
    pixel_format: str
    crf: int
    start: "VideoStart"
    return_frames: bool
    decoder: str
    report: bool = True
    finishing: Finishing = NO_FINISHING
    judge: bool = False


@dataclass(frozen=True, eq=False)
class WrittenVideo:
    """A finished file as a VIDEO, what the node shows of it, its last frame [H, W, 3] and all of them if they were
    wanted, floats of 0..1, and the tables of its report in Markdown."""

    video: InputImpl.VideoFromFile
    shown: ui.PreviewVideo
    last_frame: Tensor
    frames: Tensor | None
    report: str


def write_video(
    latents: AvatarLatents, vae: Vae | None, settings: VideoSettings, hidden: Hidden, notes: Notes
) -> WrittenVideo:
    """Everything that can be refused is refused before the file exists; what was written stays playable if this fails
    later. The notes say where the video is.

    Raises InputError for settings, MachineError for what the machine cannot do.
    """
    from liveavatar_runtime.online_video import OnlineVideo, skipped_frames

    plan, node_id = latents.stream.plan, hidden.unique_id
    finished = finished_facts(settings.finishing, plan, settings.codec)
    shape = shape_of(settings, plan)
    chosen = video_format(settings.codec, settings.pixel_format, settings.crf, shape.has_alpha)
    skipped = skipped_frames(settings.start, plan)
    notes.warn(*finished.warnings, _opaque(chosen, shape))
    if settings.return_frames:
        notes.warn(memory_warning(plan, settings.finishing))
    decoder = choose_decoder(settings.decoder, latents, managed_decoder(vae))
    prefix = expanded_prefix(settings.filename_prefix, hidden.prompt, notes)
    show_text(node_id, "\n".join(filter(None, (str(notes), *finished.told, decoder.told))))
    file = output_file(prefix, shape.width, shape.height, chosen.extension)
    video = OnlineVideo(file.path)
    judge = RunJudge(latents, skipped) if settings.judge else None
    reporting = Reporting(latents, settings, file, video, decoder.told, judge)
    with claimed(file.path):
        write_blocks(reporting, lambda start: _opened(reporting, decoder, start, node_id), hidden)
    assert video.last_frame is not None
    seconds = format_duration(video.frames / shape.fps)
    notes.warn(*latents.stream.news, *reporting.warnings)
    told = f"{file.name}: {video.frames} frames, {seconds}{PLAYERS.get(settings.codec, '')}"
    notes.tell(told, *finished.told, *latents.told(), *reporting.told(), decoder.told)
    shown = file.shown(clips_of(reporting, skipped))
    return WrittenVideo(file.as_video(node_id), shown, video.last_frame, video.kept, reporting.markdown)


def shape_of(settings: VideoSettings, plan: ClipPlan) -> "FrameShape":
    """Of the frames in the file."""
    from liveavatar_runtime.planning.kept_frames import decoded_shape

    return settings.finishing.chain.shape(decoded_shape(plan))


def _opaque(chosen: "VideoFormat", shape: "FrameShape") -> str:
    if not chosen.pixels.has_alpha or shape.has_alpha:
        return ""
    return (
        "pixel_format holds transparency, and no frame is transparent, as no Finish Background with transparent is "
        "connected to finishing."
    )


@contextmanager
def _opened(
    reporting: Reporting, decoder: DecoderChoice, start: "VideoStart | None", node_id: str
) -> "Iterator[BlockDecoder]":
    """What decodes the blocks, with the models of the finishing loaded beside it."""
    from liveavatar_runtime.planning.kept_frames import decoded_shape

    latents, finishing = reporting.latents, reporting.settings.finishing
    own = [decoder.vae.patcher] if decoder.workers is None else []
    with open_decoder(decoder, latents.stream, start, node_id) as opened:
        with finishing.loaded(decoded_shape(latents.stream.plan), latents.beside, own):
            yield opened


def clips_of(reporting: Reporting, skipped: int) -> ShownClips:
    """Of the frames that were written; `skipped` decoded ones of the first clip are left out."""
    plan, takes = reporting.latents.stream.plan, reporting.latents.takes
    factor = reporting.settings.finishing.chain.frames_factor
    frames = plan.infer_frames * factor
    return ShownClips(
        first=plan.segment.clips.start + 1,
        count=-(-(reporting.frames + skipped * factor) // frames) if reporting.frames else 0,
        of=plan.num_clip,
        frames=frames,
        fps=str(plan.fps * factor),
        skipped=skipped * factor,
        takes=print_takes(takes),
        wrong={str(clip + 1): reasons for clip, reasons in reporting.wrong().items()},
        transparent=shape_of(reporting.settings, plan).has_alpha,
    )


def memory_warning(plan: ClipPlan, finishing: Finishing) -> str:
    """What to say when all frames take much memory, or "". Raises InputError when they do not fit."""
    from liveavatar_runtime.planning.kept_frames import check_kept

    return check_kept(plan, free_ram(), finishing.chain) or ""


def write_blocks(reporting: Reporting, decoding: OpenDecoder, hidden: Hidden, shown: bool = True) -> None:
    """Decode all blocks into the file, and make the report of it, also of a run that ends early.

    shown: the frames are counted on the node, and its page plays what is written.
    """
    from liveavatar_runtime.media.video import AudioTrack, PictureTrack, Unfinished, VideoWriter
    from liveavatar_runtime.online_video import Hooks, Output, WriteOptions, finish_file, skipped_frames, write_online

    latents, settings, file, video = reporting.latents, reporting.settings, reporting.file, reporting.video
    stream, audio, node_id = latents.stream, latents.audio, hidden.unique_id
    plan, skipped = stream.plan, skipped_frames(settings.start, stream.plan)
    shape, chain = shape_of(settings, plan), settings.finishing.chain
    total = reporting.wanted = (plan.segment.frames - skipped) * chain.frames_factor
    progress = NodeProgress(node_id, total) if shown else None
    live = Broadcast(file.path, hidden, float(total / shape.fps), shape) if shown else None

    def on_frames(done: int, _: int) -> None:
        reporting.note_memory()
        if progress is not None:
            progress.advance_to(done)

    news = live.news if live is not None else lambda: None
    hooks = Hooks(on_frames, stop_if_interrupted, between_steps, news)
    options = WriteOptions(skipped, settings.return_frames, hooks=hooks, finishing=chain)
    first = settings.start if plan.segment.starts_video else None
    encoding = settings.codec, settings.pixel_format, settings.crf
    picture = PictureTrack(shape.width, shape.height, shape.fps, *encoding, has_alpha=shape.has_alpha)
    sound = AudioTrack(audio.sample_rate, audio.channels)
    writer = None
    with reporting:
        try:
            with _ram_told(plan, settings), decoding(first) as decoder:
                watched = decoder if reporting.judge is None else reporting.judge.watch(decoder)
                with VideoWriter(file.path, picture, sound, metadata_of(hidden), Unfinished(advice=KEPT)) as writer:
                    output = Output(writer, video)
                    write_online(stream, watched, audio, output, options)
                    finish_file(output)
        finally:
            reporting.frames = writer.frames_written if writer is not None else 0
            if live is not None:
                shown_file = file if reporting.frames and file.path.is_file() else None
                live.end(shown_file, clips_of(reporting, skipped))
            stream.close()
            # After a failure of the file its own error says what plays.
            if 0 < reporting.frames < total and file.path.is_file():
                seconds = format_duration(reporting.frames / shape.fps)
                show_text(node_id, f"Stopped early: the first {seconds} are in {file.path}")


def _ram_told(plan: ClipPlan, settings: VideoSettings) -> AbstractContextManager[None]:
    from liveavatar_runtime.out_of_memory import ram_told
    from liveavatar_runtime.planning.kept_frames import kept_bytes
    from liveavatar_runtime.texts import gib

    kept = kept_bytes(plan, settings.finishing.chain) if settings.return_frames else 0
    smaller = "a smaller size in Finish Upscale" if settings.finishing.chain.steps else ""
    return ram_told("writing the video", f"return_frames off (frees {gib(kept)})" if kept else "", smaller)
