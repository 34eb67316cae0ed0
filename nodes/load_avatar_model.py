"""Load Avatar Model: the transformer, and what its bundle brings along."""

from comfy_api.latest import io

from liveavatar_runtime.executors.table import NAMES

from ..comfy_bridge.comfy_types import Patcher
from ..comfy_bridge.folders import bundle_folders, lora_files, model_files
from ..comfy_bridge.model_loading import AUTO, BUNDLE_MARK, NONE, PRECISIONS, LoraChoice, ModelChoice, load_parts
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.validation import check_number, other_widgets, verdict
from ..comfy_bridge.worker_model import check_group_name, chosen_places
from .search_words import search_words
from .types import CATEGORY, ModelSocket

MORE_LORAS = (2, 3)
"""Numbers of the further LoRA widgets."""


class LoadAvatarModel(io.ComfyNode):
    """Loads a Live Avatar transformer from a whole model folder (bundle) or from a single file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        bundles = [name + BUNDLE_MARK for name in bundle_folders()]
        return io.Schema(
            node_id="LiveAvatar_LoadAvatarModel",
            display_name="Load Avatar Model",
            category=CATEGORY,
            description="Loads the Live Avatar transformer; a bundle also brings text encoder, VAE and audio encoder.",
            search_aliases=search_words("LiveAvatar_LoadAvatarModel"),
            inputs=[
                io.Combo.Input(
                    "model",
                    options=bundles + model_files(),
                    tooltip="A bundle (ends in /, from models/liveavatar) or a file from models/diffusion_models, "
                    "which needs loaders for CLIP, VAE and audio encoder beside it. GGUF files are "
                    "unpacked.",
                ),
                io.Combo.Input(
                    "lora",
                    options=[AUTO, NONE, *lora_files()],
                    default=AUTO,
                    tooltip="Distillation LoRA to merge (liveavatar.safetensors). auto takes the bundle's own; for "
                    "a file without it merged in, choose it here, or 4 steps look poor.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Strength of the LoRA; keep 1.0.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="Number format of the weights; auto keeps the file's where the device can compute in "
                    "it. bf16 and fp16 take the same room, fp8_e4m3fn half of it. Quantised files keep "
                    "theirs.",
                ),
                io.Model.Input(
                    "base_model",
                    optional=True,
                    tooltip="A Wan2.2-S2V model of another loader (GGUF, LoRA, ...), used instead of the file.",
                ),
                *(widget for number in MORE_LORAS for widget in lora_widgets(number)),
                io.Combo.Input(
                    "executor",
                    options=list(NAMES),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="How several GPUs share the work: layer_pipeline by layers (nearly always best), "
                    "timestep_pipeline by steps (large cards), fsdp saves memory but no time. auto: the "
                    "fastest that fits when devices names several, else one GPU (local).",
                ),
                io.String.Input(
                    "devices",
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="Devices to use, such as cuda:0,cuda:1. auto: all GPUs with fsdp and the pipelines, "
                    "otherwise only ComfyUI's own.",
                ),
                io.String.Input(
                    "workers",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Name of workers that already run on this or other machines, from the file "
                    "user/liveavatar-workers.ini; empty for none.",
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
            hidden=[io.Hidden.unique_id],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, workers: str | None = "") -> bool | str:
        executor, devices = other_widgets(cls, executor=AUTO, devices=AUTO)
        chosen = None if executor is None else (executor, devices)
        return verdict(cls, (check_group_name, workers), (lambda pair: chosen_places(*pair), chosen))

    @classmethod
    def execute(
        cls,
        model: str,
        lora: str,
        lora_strength: float,
        precision: str = AUTO,
        base_model: Patcher | None = None,
        executor: str = AUTO,
        devices: str = AUTO,
        workers: str = "",
        lora_2: str = NONE,
        lora_2_strength: float = 1.0,
        lora_3: str = NONE,
        lora_3_strength: float = 1.0,
    ) -> io.NodeOutput:
        check_number(cls, lora_strength=lora_strength, lora_2_strength=lora_2_strength, lora_3_strength=lora_3_strength)
        named = (lora, lora_strength), (lora_2, lora_2_strength), (lora_3, lora_3_strength)
        loras = [LoraChoice(*one) for one in named]
        notes = Notes()
        choice = ModelChoice(model, loras, precision, executor, devices, workers, base_model)
        loaded = load_parts(choice, cls.hidden.unique_id, notes)
        return notes.output(loaded.avatar, loaded.clip, loaded.vae, loaded.audio_encoder)


def lora_widgets(number: int) -> tuple[io.Combo.Input, io.Float.Input]:
    """File and strength of a further LoRA."""
    return (
        io.Combo.Input(
            f"lora_{number}",
            options=[NONE, *lora_files()],
            default=NONE,
            optional=True,
            advanced=True,
            tooltip="Another LoRA, added to the first.",
        ),
        io.Float.Input(
            f"lora_{number}_strength",
            default=1.0,
            min=-4.0,
            max=4.0,
            step=0.05,
            optional=True,
            advanced=True,
            tooltip=f"Strength of lora_{number}.",
        ),
    )
