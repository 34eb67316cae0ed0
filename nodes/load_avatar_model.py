"""Load Avatar Model: the transformer, and what its bundle brings along."""

from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from . import comfy_bridge as bridge
from .bundle_parts import load_bundle_audio_encoder, load_bundle_vae
from .core_model import adopt, load_with_core, with_lora
from .types import CATEGORY, ModelSocket

BUNDLE_MARK = "/"
"""End of a bundle's name in the list, so that it differs from a file's."""
AUTO, NONE = "auto", "none"
PRECISIONS: dict[str, torch.dtype | None] = {
    AUTO: None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
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
                io.Model.Input(
                    "base_model",
                    optional=True,
                    tooltip="A Wan2.2-S2V model of another loader (GGUF, LoRA, ...), used instead of the file.",
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
    def execute(
        cls, model: str, lora: str, lora_strength: float, precision: str = AUTO, base_model: Any = None
    ) -> io.NodeOutput:
        from ..liveavatar_runtime.checkpoint.bundle import find_bundle
        from .bundle_clip import load_bundle_clip

        name = model.removesuffix(BUNDLE_MARK)
        bundle = find_bundle(bridge.bundle_folders()[name]) if model.endswith(BUNDLE_MARK) else None
        loras = chosen_loras(lora, bundle and bundle.lora, lora_strength)
        if base_model is None:
            path = bundle.model if bundle else bridge.model_path("diffusion_models", model)
            base_model = load_with_core(path, loras, PRECISIONS[precision])
        else:
            for path, strength in loras:
                base_model = with_lora(base_model, path, strength)
        avatar = adopt(base_model)
        if bundle is None:
            return io.NodeOutput(avatar, None, None, None)
        return io.NodeOutput(
            avatar, load_bundle_clip(bundle), load_bundle_vae(bundle), load_bundle_audio_encoder(bundle)
        )


def chosen_loras(name: str, own: Path | None, strength: float) -> list[tuple[Path, float]]:
    """LoRA files to merge, with strengths."""
    path = own if name == AUTO else None if name == NONE else bridge.model_path("loras", name)
    return [] if path is None else [(path, strength)]
