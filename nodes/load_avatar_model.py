"""Load Avatar Model: the transformer, and what its bundle brings along."""

from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from . import comfy_bridge as bridge
from .bundle_parts import load_bundle_audio_encoder, load_bundle_vae
from .types import CATEGORY, AvatarModel, ModelSocket

BUNDLE_MARK = "/"
"""End of a bundle's name in the list, so that it differs from a file's."""
AUTO, NONE = "auto", "none"
PRECISIONS: dict[str, torch.dtype | None] = {
    AUTO: None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}


class LoadAvatarModel(io.ComfyNode):
    """Loads a Live Avatar transformer from a whole model folder (bundle) or from a single file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        bundles = [name + BUNDLE_MARK for name in bridge.bundle_folders()]
        return io.Schema(
            node_id="LiveAvatar_LoadAvatarModel",
            display_name="Load Avatar Model",
            category=CATEGORY,
            description="Loads the Live Avatar transformer; a bundle also brings text encoder, VAE and audio encoder.",
            search_aliases=["live avatar loader", "s2v"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=bundles + bridge.model_files(),
                    tooltip="A bundle (ends in /, from models/liveavatar) or a file from models/diffusion_models.",
                ),
                io.Combo.Input(
                    "lora",
                    options=[AUTO, NONE, *bridge.lora_files()],
                    default=AUTO,
                    tooltip="Distillation LoRA to merge; auto takes the bundle's own, if it has one.",
                ),
                io.Float.Input(
                    "lora_strength", default=1.0, min=-4.0, max=4.0, step=0.05, tooltip="Strength of the LoRA."
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=AUTO,
                    advanced=True,
                    tooltip="Number format of the weights; auto keeps the file's where the device can compute in it.",
                ),
            ],
            outputs=[
                ModelSocket.Output("model", display_name="model", tooltip="The transformer, for DiT Sampler."),
                io.Clip.Output("clip", display_name="clip", tooltip="The bundle's text encoder; empty for a file."),
                io.Vae.Output("vae", display_name="vae", tooltip="The bundle's VAE; empty for a file."),
                io.AudioEncoder.Output(
                    "audio_encoder", display_name="audio_encoder", tooltip="The bundle's wav2vec2; empty for a file."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: str, lora: str, lora_strength: float, precision: str = AUTO) -> io.NodeOutput:
        if not model.endswith(BUNDLE_MARK):
            path = bridge.model_path("diffusion_models", model)
            return io.NodeOutput(load(path, chosen_loras(lora, None, lora_strength), precision), None, None, None)
        from ..liveavatar_runtime.checkpoint.bundle import find_bundle
        from .bundle_clip import load_bundle_clip

        bundle = find_bundle(bridge.bundle_folders()[model.removesuffix(BUNDLE_MARK)])
        avatar = load(bundle.model, chosen_loras(lora, bundle.lora, lora_strength), precision)
        clip, vae = load_bundle_clip(bundle), load_bundle_vae(bundle)
        return io.NodeOutput(avatar, clip, vae, load_bundle_audio_encoder(bundle))


def chosen_loras(name: str, own: Path | None, strength: float) -> list[tuple[Path, float]]:
    """LoRA files to merge, with strengths."""
    path = own if name == AUTO else None if name == NONE else bridge.model_path("loras", name)
    return [] if path is None else [(path, strength)]


def load(path: Path, loras: list[tuple[Path, float]], precision: str) -> AvatarModel:
    """The transformer under ComfyUI's memory management."""
    from ..liveavatar_runtime.checkpoint.transformer import load_transformer

    module: Any = load_transformer(
        path, loras, PRECISIONS[precision], operations=bridge.operations(), attention=bridge.attention
    )
    device, offload = bridge.diffusion_devices()
    dtype = bridge.compute_dtype(module.patch_embedding.weight.dtype, device)
    return AvatarModel(bridge.patcher_for(module, device, offload), module.config, dtype)
