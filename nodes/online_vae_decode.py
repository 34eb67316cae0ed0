"""Online VAE Decode: latent blocks to a video file with sound, block by block, while they are sampled."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from comfy_api.latest import InputImpl, io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from liveavatar_runtime.duration import format_duration
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.media.codecs import AUTO, CODECS, PIXEL_FORMATS, video_format
from liveavatar_runtime.sampling.plan import ClipPlan

from ..comfy_bridge.avatar import AvatarLatents
from ..comfy_bridge.decoder_choice import DECODERS, choose_decoder, open_decoder
from ..comfy_bridge.memory import free_ram
from ..comfy_bridge.notes import Notes
from ..comfy_bridge.output_files import (
    check_output_prefix,
    claimed,
    expanded_prefix,
    lost_files,
    metadata_of,
    output_file,
    remember_file,
)
from ..comfy_bridge.progress import NodeProgress, between_steps, show_text, stop_if_interrupted
from ..comfy_bridge.vae import streaming_vae
from ..comfy_bridge.validation import consumers, other_widgets, verdict
from .types import CATEGORY, LatentsSocket


class OnlineVAEDecode(io.ComfyNode):
    """Decodes block by block and writes the video at once, so memory does not grow with its length."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_OnlineVAEDecode",
            display_name="Online VAE Decode",
            category=CATEGORY,
            description="Decodes the latent blocks and writes them with the voice to a video in the output folder.",
            search_aliases=["live avatar decode", "save avatar video"],
            inputs=[
                LatentsSocket.Input("latents", tooltip="From DiT Sampler."),
                io.Vae.Input("vae", tooltip="Wan 2.1 VAE."),
                io.String.Input(
                    "filename_prefix",
                    default="LiveAvatar/avatar",
                    tooltip="Path of the file in the output folder, without number and ending.",
                ),
                io.Int.Input(
                    "crf",
                    default=18,
                    min=0,
                    max=63,
                    tooltip="Quality of the video: lower is better and bigger; up to 51, for vp9 and av1 up to 63.",
                ),
                io.Boolean.Input(
                    "return_frames",
                    default=False,
                    tooltip="Also give all frames as images; they stay in memory, so only up to 100 clips.",
                ),
                io.Combo.Input(
                    "start",
                    options=["hold", "trim"],
                    default="hold",
                    optional=True,
                    advanced=True,
                    tooltip="The first 3 frames can't be decoded: show the 4th instead (hold) or leave out their time.",
                ),
                io.Combo.Input(
                    "codec",
                    options=list(CODECS),
                    default="h264",
                    optional=True,
                    advanced=True,
                    tooltip="h264 plays everywhere; hevc and av1 are smaller; vp9 is WebM; ffv1 is lossless (MKV).",
                ),
                io.Combo.Input(
                    "pixel_format",
                    options=[AUTO, *PIXEL_FORMATS],
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="auto suits players (ffv1: rgb); yuv444p keeps sharp colours, 10 avoids bands.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=list(DECODERS),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="Who decodes: comfyui, or workers that hold the same VAE; auto takes workers that do.",
                ),
            ],
            outputs=[
                io.Video.Output("video", display_name="video", tooltip="The file that was written."),
                io.Image.Output("last_frame", display_name="last_frame", tooltip="Picture for a next segment."),
                io.Image.Output("frames", display_name="frames", tooltip="All frames, with return_frames on."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        node_id = cls.hidden.unique_id
        codec, pixel_format, crf = other_widgets(cls, codec="h264", pixel_format=AUTO, crf=18)
        # What is in no list is told by ComfyUI.
        choice = (codec, pixel_format, crf) if codec in CODECS and pixel_format in (AUTO, *PIXEL_FORMATS) else None
        (frames,) = other_widgets(cls, return_frames=False)
        users = consumers(node_id, FRAMES_OUTPUT) if frames is False else []
        return verdict(
            cls,
            (check_output_prefix, filename_prefix),
            (lambda names: video_format(*names), choice),
            (refuse_users, users),
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        return lost_files(cls.hidden.unique_id)

    @classmethod
    def execute(
        cls,
        latents: AvatarLatents,
        vae: Any,
        filename_prefix: str,
        crf: int,
        return_frames: bool,
        start: str = "hold",
        codec: str = "h264",
        pixel_format: str = AUTO,
        decoder: str = AUTO,
    ) -> io.NodeOutput:
        from liveavatar_runtime.online_video import skipped_frames

        plan, node_id = latents.stream.plan, cls.hidden.unique_id
        # Everything that can be refused is refused before the file exists.
        chosen = video_format(codec, pixel_format, crf)
        skipped_frames(start, plan)  # pyright: ignore[reportArgumentType] (one of the widget's options)
        notes = Notes()
        if return_frames:
            notes.warn(memory_warning(plan))
        streaming = streaming_vae(vae)
        workers, decoded_by = choose_decoder(decoder, latents, streaming)
        prefix = expanded_prefix(filename_prefix, cls.hidden.prompt, notes)
        show_text(node_id, "\n".join(filter(None, (str(notes), decoded_by))))
        path, file, subfolder = output_file(prefix, plan.width, plan.height, chosen.extension)
        options = {"codec": codec, "pixel_format": pixel_format, "crf": crf}
        with claimed(path):
            video = write(
                latents,
                lambda first: open_decoder(streaming, workers, latents, first, node_id),
                path,
                options,
                return_frames,
                start,
                node_id,
                metadata_of(cls.hidden),
            )
        seconds = format_duration(video.frames / plan.fps)
        notes.warn(*latents.stream.news)
        told = f"{file}: {video.frames} frames, {seconds}{PLAYERS.get(codec, '')}"
        notes.tell(told, *latents.stream.facts, decoded_by)
        assert video.last_frame is not None
        frames = video.kept if return_frames else ExecutionBlocker(FRAMES_OFF)
        shown = ui.PreviewVideo([ui.SavedResult(file, subfolder, io.FolderType.output)])
        result = InputImpl.VideoFromFile(str(path))
        remember_file(result, node_id, path)
        return notes.output(result, video.last_frame[None], frames, shown=shown)


FRAMES_OUTPUT = 2
"""Place of the frames among the outputs."""
KEPT = "Finished clips are kept, so they are not sampled again."
"""Told with every failure of the file."""
PLAYERS = {"ffv1": ". Browsers do not play FFV1; VLC, mpv and video editors do."}
FRAMES_OFF = "The frames output of Online VAE Decode is off. Turn on return_frames there to use it."


def refuse_users(titles: list[str]) -> None:
    """Raises InputError when nodes want the frames, whose output is off."""
    if titles:
        raise InputError(
            f"frames is connected to {', '.join(titles)}, but return_frames is off. Turn on return_frames, or "
            "disconnect frames and use video."
        )


def memory_warning(plan: ClipPlan) -> str:
    """What to say when all frames take much memory, or "". Raises InputError when they do not fit."""
    from liveavatar_runtime.online_video import check_kept

    return check_kept(plan, free_ram()) or ""


def write(
    latents: AvatarLatents,
    decoding: Callable[[Any], AbstractContextManager[Any]],
    path: Any,
    options: dict[str, Any],
    return_frames: bool,
    start: Any,
    node_id: str,
    metadata: dict[str, str],
) -> Any:
    """Decode all blocks into the file; returns the OnlineVideo. What was written stays playable if this raises.

    decoding: opens a decoder, given the first-frame mode; options: codec, pixel_format and crf.
    """
    from liveavatar_runtime.media.video import VideoWriter
    from liveavatar_runtime.online_video import Hooks, OnlineVideo, skipped_frames, write_online
    from liveavatar_runtime.out_of_memory import ram_told
    from liveavatar_runtime.planning.advice import frames_bytes
    from liveavatar_runtime.texts import gib

    stream, audio = latents.stream, latents.audio
    plan, skipped = stream.plan, skipped_frames(start, stream.plan)
    total = plan.segment.frames - skipped
    video = OnlineVideo(path)
    progress = NodeProgress(node_id, total)
    hooks = Hooks(lambda done, _: progress.advance_to(done), stop_if_interrupted, between_steps)
    first = start if plan.segment.starts_video else None
    sound = {"sample_rate": audio.sample_rate, "channels": audio.waveform.shape[0]}
    kept_bytes = frames_bytes(plan) if return_frames else 0
    off = f"return_frames off (frees {gib(kept_bytes)})" if return_frames else ""
    writer = None
    try:
        with ram_told("writing the video", off), decoding(first) as decoder:
            of_file = {"metadata": metadata, "kept": KEPT, **options, **sound}
            with VideoWriter(path, plan.width, plan.height, plan.fps, **of_file) as writer:
                write_online(stream, decoder, audio, writer, video, skipped, return_frames, hooks)
    finally:
        stream.close()
        # After a failure of the file its own error says what plays.
        if writer is not None and 0 < writer.frames_written < total and path.is_file():
            seconds = format_duration(writer.frames_written / plan.fps)
            show_text(node_id, f"Stopped early: the first {seconds} are in {path}")
    return video
