"""Collect Latents: the whole stream as one native LATENT, for other decoders and savers."""

import torch
from comfy_api.latest import io

from ..comfy_bridge.avatar import AvatarLatents
from ..comfy_bridge.live.latents import LiveLatents, recorded
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from .search_words import search_words
from .types import CATEGORY, LatentsSocket


class CollectLatents(io.ComfyNode):
    """Samples all blocks and gives them as one video latent; for short videos, since all of it stays in memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_CollectLatents",
            display_name="Collect Latents",
            category=CATEGORY,
            description="Collects all blocks into one native video latent, for VAE Decode and other nodes.",
            search_aliases=search_words("LiveAvatar_CollectLatents"),
            inputs=[LatentsSocket.Input("latents", tooltip="From DiT Sampler.")],
            outputs=[io.Latent.Output("latent", display_name="LATENT", tooltip="[1, 16, frames / 4, h / 8, w / 8].")],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def execute(cls, latents: AvatarLatents | LiveLatents) -> io.NodeOutput:
        from liveavatar_runtime.duration import FRAMES_PER_LATENT, latents_for_frames
        from liveavatar_runtime.out_of_memory import ram_told
        from liveavatar_runtime.planning.advice import check_collected, spool_bytes
        from liveavatar_runtime.texts import gib
        from liveavatar_runtime.vae import from_model_space

        latents = recorded(latents)
        part = latents.stream.segment
        check_collected(latents.stream.plan)
        instead = f"Online VAE Decode, which needs none of the {gib(spool_bytes(latents.stream.plan))} of latents"
        with ram_told("collecting the latents", instead, "segment_clips in Clip Scheduler"):
            samples = torch.cat([block.latents for block in latents.stream], dim=1)
        kept = latents_for_frames(part.frames)
        notes = Notes(*latents.told())
        notes.warn(*latents.stream.news)
        if part.cut_frames:
            notes.tell(
                f"end voice: cut to {kept} whole latents of {FRAMES_PER_LATENT} frames, the fewest that hold the "
                f"video's {part.frames} frames"
            )
        return notes.output({"samples": from_model_space(samples[:, :kept])[None]})
