"""Load Avatar Model: the transformer, and what its bundle brings along."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from liveavatar_runtime.devices import EXECUTORS, FSDP, all_devices
from liveavatar_runtime.system_memory import gib

from ..comfy_bridge.avatar import AvatarModel
from ..comfy_bridge.bundle_parts import load_bundle_audio_encoder, load_bundle_vae
from ..comfy_bridge.core_model import AS_IN_FILE, Progress, adopt, load_with_core, with_loras
from ..comfy_bridge.device_checks import check_precision
from ..comfy_bridge.folders import (
    bundle_folders,
    diffusion_model_path,
    known_hashes,
    lora_files,
    model_files,
    model_path,
)
from ..comfy_bridge.lora_notes import changed_weights, loras_for_workers, tell_distillation, tell_loras
from ..comfy_bridge.memory import own_device
from ..comfy_bridge.model_patches import without_effect
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.progress import NodeProgress, log, show_text, stop_if_interrupted
from ..comfy_bridge.validation import check_number, other_widgets, verdict
from ..comfy_bridge.worker_model import (
    chosen_places,
    describe_workers,
    idle_devices,
    model_of_group,
    model_of_name,
    named_group,
    on_devices,
    refuse_base_model,
)
from .types import CATEGORY, ModelSocket

if TYPE_CHECKING:
    from liveavatar_runtime.checkpoint.lora import FittedLora

BUNDLE_MARK = "/"
"""End of a bundle's name in the list, so that it differs from a file's."""
AUTO, NONE = "auto", "none"
PRECISIONS: dict[str, torch.dtype | str | None] = {
    AUTO: None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    AS_IN_FILE: AS_IN_FILE,
}
MORE_LORAS = (2, 3)
"""Numbers of the further LoRA widgets."""
TICKS = 100
"""Length of the progress bar."""
WORTH_TELLING = 2**30
"""Bytes to read from which on the node says so."""
READING = "Reading the {size} of {name} once, to know them again"


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
            search_aliases=["live avatar loader", "s2v", "talking head", "lip sync", "数字人", "对口型"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=bundles + model_files(),
                    tooltip="A bundle (ends in /, from models/liveavatar) or a file from models/diffusion_models. "
                    "GGUF files are unpacked.",
                ),
                io.Combo.Input(
                    "lora",
                    options=[AUTO, NONE, *lora_files()],
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
                    optional=True,
                    advanced=True,
                    tooltip="Number format of the weights; auto keeps the file's where the device can compute in it. "
                    "Quantised files keep theirs.",
                ),
                io.Model.Input(
                    "base_model",
                    optional=True,
                    tooltip="A Wan2.2-S2V model of another loader (GGUF, LoRA, ...), used instead of the file.",
                ),
                *(widget for number in MORE_LORAS for widget in lora_widgets(number)),
                io.Combo.Input(
                    "executor",
                    options=list(EXECUTORS),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="How the work is shared by several devices; auto takes the fastest that fits when devices "
                    "names several, else local.",
                ),
                io.String.Input(
                    "devices",
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="Devices of executor, such as cuda:0,cuda:1. auto: ComfyUI's own with executor auto and "
                    "local, all of this machine with the others.",
                ),
                io.String.Input(
                    "workers",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Name of workers that run already, on this or other machines, of the file "
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
        return verdict(cls, (check_workers, workers), (lambda pair: chosen_places(*pair), chosen))

    @classmethod
    def execute(
        cls,
        model: str,
        lora: str,
        lora_strength: float,
        precision: str = AUTO,
        base_model: Any = None,
        executor: str = AUTO,
        devices: str = AUTO,
        workers: str = "",
        **more: Any,
    ) -> io.NodeOutput:
        from liveavatar_runtime.checkpoint.bundle import find_bundle

        check_number(cls, lora_strength=lora_strength, **more)
        name = model.removesuffix(BUNDLE_MARK)
        bundle = find_bundle(bundle_folders()[name]) if model.endswith(BUNDLE_MARK) else None
        loras = chosen_loras(lora, bundle and bundle.lora, lora_strength)
        for number in MORE_LORAS:
            loras += chosen_loras(more.get(f"lora_{number}", NONE), None, more.get(f"lora_{number}_strength", 1.0))
        stages = Stages(cls.hidden.unique_id, 5 if bundle else 2)
        notes = Notes()
        if workers.strip():
            refuse_base_model(base_model)
            avatar = stages.run(None, lambda _: model_of_name(workers))
            notes.tell(describe_workers(avatar))
            notes.warn(ignored_loras(loras, bundle and bundle.lora))
        else:
            source = base_model
            if base_model is None:
                source = bundle.model if bundle else diffusion_model_path(model)
            avatar, fitted = load_model(source, loras, precision, executor, devices, stages, notes)
            tell_loras(notes, loras, fitted)
            notes.tell(description(avatar))
            changed = changed_weights(avatar.patcher, loras, fitted)
            tell_distillation(notes, avatar, changed, source, bundle is not None)
        notes.warn(*told_of_model(avatar, base_model, precision), idle_gpus(avatar, executor, devices))
        if bundle is not None and base_model is None and not workers.strip():
            avatar = replace(avatar, made_for=bundle.video_size)
        parts = load_parts(bundle, stages) if bundle else (None, None, None)
        return notes.output(avatar, *parts)


def load_model(
    source: Any,
    loras: Sequence[tuple[Path, float]],
    precision: str,
    executor: str,
    devices: str,
    stages: "Stages",
    notes: Notes,
) -> tuple[AvatarModel, list["FittedLora"]]:
    """The model of a file, a folder or a connected MODEL, and what of each LoRA is applied."""
    path = source if isinstance(source, Path) else None
    if path is not None:
        check_precision(precision, own_device())
    if executor == FSDP:
        refuse_base_model(None if path else source)
        avatar = model_of_group(executor, devices, source, loras, precision)
        return replace(avatar, key=stages.key(source, loras)), loras_for_workers(avatar.config, loras)
    if path is not None:
        source = stages.run(path, lambda done: load_with_core(path, [], PRECISIONS[precision], done, notes.warn))
    patched, fitted = with_loras(source, loras)
    avatar = on_devices(adopt(patched), executor, devices)
    return avatar if path is None else replace(avatar, key=stages.key(path, loras)), fitted


def check_workers(workers: str) -> None:
    """Raises InputError for a name that the user's file does not have; none is no name."""
    if workers.strip():
        named_group(workers)


class Stages:
    """The progress bar of loading several files: each takes an equal part of it."""

    def __init__(self, node_id: str, count: int) -> None:
        self._bar, self._count, self._done = NodeProgress(node_id, count * TICKS), count, 0
        self._node_id = node_id

    def run(self, path: Path | None, load: Callable[[Progress], Any]) -> Any:
        """The result of `load`, which may call back with what it has done and what there is to do."""
        start = time.perf_counter()
        result = load(lambda done, total: self._bar.advance_to(TICKS * self._done + TICKS * done // total))
        self._done += 1
        self._bar.advance_to(TICKS * self._done)
        if path is not None:
            log.info("Loaded %s in %.1f s", path, time.perf_counter() - start)
        return result

    def key(self, path: Path, loras: Sequence[tuple[Path, float]]) -> str:
        """The key of a file's weights (`weights_key`), which may have to be read for it."""
        from liveavatar_runtime.checkpoint.weights_key import weights_key

        def compute(progress: Progress) -> str:
            tick = -1

            def advance(done: int, total: int) -> None:
                nonlocal tick
                stop_if_interrupted()
                if tick < 0 and total > WORTH_TELLING:
                    show_text(self._node_id, READING.format(name=path.name, size=gib(total)))
                if tick < TICKS * done // total:
                    tick = TICKS * done // total
                    progress(done, total)

            return weights_key(path, loras, known_hashes(), advance)

        return self.run(None, compute)


def load_parts(bundle: Any, stages: Stages) -> tuple[Any, Any, Any]:
    """Text encoder, VAE and audio encoder of a bundle; None for what it does not have."""
    from ..comfy_bridge.bundle_clip import load_bundle_clip

    return (
        stages.run(bundle.text_encoder, lambda _: load_bundle_clip(bundle)),
        stages.run(bundle.vae, lambda _: load_bundle_vae(bundle)),
        stages.run(bundle.wav2vec2, lambda _: load_bundle_audio_encoder(bundle)),
    )


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


def chosen_loras(name: str, own: Path | None, strength: float) -> list[tuple[Path, float]]:
    """LoRA files to merge, with strengths."""
    path = own if name == AUTO else None if name == NONE else model_path("loras", name)
    return [] if path is None else [(path, strength)]


def ignored_loras(loras: Sequence[tuple[Path, float]], own: Path | None) -> str | None:
    """Says that LoRAs which the user chose are not applied: workers at an address have loaded theirs."""
    names = [path.name for path, _ in loras if path != own]
    if not names:
        return None
    return (
        f"{', '.join(names)} is not applied: the workers were started with LoRAs of their own. "
        "Start them with --lora FILE STRENGTH, or leave workers empty."
    )


def told_of_model(avatar: AvatarModel, base_model: Any, precision: str) -> list[str]:
    """What on the model, or beside a connected one or that of workers, has no effect."""
    told = [] if avatar.loaded is None else without_effect(avatar.patcher)
    if base_model is not None and precision != AUTO:
        told.append(
            f"precision {precision} has no effect on base_model; set it in the loader of that model, or with a "
            "ModelComputeDtype node after it."
        )
    if avatar.workers is not None and not avatar.devices and precision != AUTO:
        told.append(f"precision {precision} has no effect on workers that run already; start them with --precision.")
    return told


def idle_gpus(avatar: AvatarModel, executor: str, devices: str) -> str | None:
    """That GPUs of this machine have nothing to do, if the model is here and nobody chose that."""
    return idle_devices(executor, devices, all_devices()) if avatar.workers is None else None


def description(avatar: AvatarModel) -> str:
    """What was loaded, for the node: where it is, or size of the model and computing format."""
    if avatar.workers is not None:
        return describe_workers(avatar)
    return f"{avatar.patcher.model_size() / 2**30:.2f} GiB, computes in {str(avatar.dtype).removeprefix('torch.')}"
