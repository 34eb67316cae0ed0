"""Online VAE Decode: latent blocks to a video file with sound, block by block, while they are sampled."""

from typing import Any

import torch
from comfy_api.latest import InputImpl, io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..liveavatar_runtime.planning.duration import format_duration
from . import comfy_bridge as bridge
from .types import CATEGORY, AvatarLatents, LatentsSocket
from .vae_bridge import streaming_vae
from .validation import verdict


class OnlineVAEDecode(io.ComfyNode):
    """Decodes block by block and writes the video at once, so memory does not grow with its length."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_OnlineVAEDecode",
            display_name="Online VAE Decode",
            category=CATEGORY,
            description="Decodes the latent blocks and writes them with the voice to an MP4 in the output folder.",
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
                    "crf", default=18, min=0, max=51, tooltip="Quality of the video: lower is better and bigger."
                ),
                io.Boolean.Input(
                    "return_frames",
                    default=False,
                    tooltip="Also give all frames as images; they stay in memory, so only for short videos.",
                ),
                io.Combo.Input(
                    "start",
                    options=["hold", "trim"],
                    default="hold",
                    advanced=True,
                    tooltip="The first 3 frames can't be decoded: show the 4th instead (hold) or leave out their time.",
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
        return verdict((bridge.check_output_prefix, filename_prefix))

    @classmethod
    def execute(
        cls,
        latents: AvatarLatents,
        vae: Any,
        filename_prefix: str,
        crf: int,
        return_frames: bool,
        start: str = "hold",
    ) -> io.NodeOutput:
        plan = latents.stream.plan
        # Everything that can be refused is refused before the file exists.
        streaming = streaming_vae(vae)
        path, file, subfolder = bridge.output_file(filename_prefix, plan.width, plan.height, "mp4")
        node_id = cls.hidden.unique_id
        video = write(latents, streaming, path, crf, return_frames, start, node_id, bridge.metadata_of(cls.hidden))
        bridge.show_text(node_id, f"{file}: {video.frames} frames, {format_duration(video.frames / plan.fps)}")
        assert video.last_frame is not None
        frames = torch.cat(video.kept) if return_frames else ExecutionBlocker(FRAMES_OFF)
        shown = ui.PreviewVideo([ui.SavedResult(file, subfolder, io.FolderType.output)])
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), video.last_frame[None], frames, ui=shown)


FRAMES_OFF = "The frames output of Online VAE Decode is off. Turn on return_frames there to use it."


def write(
    latents: AvatarLatents,
    streaming: Any,
    path: Any,
    crf: int,
    return_frames: bool,
    start: Any,
    node_id: str,
    metadata: dict[str, str],
) -> Any:
    """Decode all blocks into the file; returns the OnlineVideo. What was written stays playable if this raises."""
    from ..liveavatar_runtime.media.online_video import OnlineVideo, skipped_frames, write_online
    from ..liveavatar_runtime.media.video import VideoWriter
    from ..liveavatar_runtime.vae.online_decoder import OnlineDecoder

    stream, audio = latents.stream, latents.audio
    plan, skipped = stream.plan, skipped_frames(start)
    video = OnlineVideo(path)
    progress = bridge.NodeProgress(node_id, plan.frames - skipped)
    module, device = streaming.on_device()
    decoder = OnlineDecoder(module, stream.priming, start, device, streaming.dtype)
    sound = {"sample_rate": audio.sample_rate, "channels": audio.waveform.shape[0]}
    try:
        with VideoWriter(path, plan.width, plan.height, plan.fps, crf=crf, metadata=metadata, **sound) as writer:
            write_online(
                stream, decoder, audio, writer, video, skipped, return_frames, lambda done, _: progress.advance_to(done)
            )
    finally:
        if 0 < video.frames < plan.frames - skipped:
            seconds = format_duration(video.frames / plan.fps)
            bridge.show_text(node_id, f"Stopped early: the first {seconds} are in {path}")
    return video
