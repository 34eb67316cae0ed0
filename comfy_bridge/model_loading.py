"""Load Avatar Model at work: a transformer from a folder, file, MODEL or workers, and what else is in its folder."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from liveavatar_runtime.devices import all_devices
from liveavatar_runtime.executors.table import runs_here
from liveavatar_runtime.progress import Progress
from liveavatar_runtime.texts import size_text

from .avatar import UNKNOWN_ORIGIN, AvatarModel, Origin
from .bundle_parts import load_bundle_audio_encoder, load_bundle_vae
from .core_model import AS_IN_FILE, adopt, load_with_core, with_loras
from .device_checks import check_precision
from .folders import bundle_folders, diffusion_model_path, known_hashes, model_path
from .lora_notes import changed_weights, ignored_loras, loras_for_workers, tell_distillation, tell_loras
from .memory import own_device
from .model_patches import without_effect
from .notes import Notes
from .progress import NodeProgress, log, show_text, stop_if_interrupted
from .worker_model import (
    describe_workers,
    idle_devices,
    model_of_group,
    model_of_name,
    on_devices,
    refuse_base_model,
)

if TYPE_CHECKING:
    from comfy.sd import CLIP

    from liveavatar_runtime.checkpoint.bundle import Bundle
    from liveavatar_runtime.checkpoint.lora import FittedLora

    from .bundle_parts import BundleAudioEncoder
    from .comfy_types import Patcher, Vae

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
TICKS = 100
"""Length of the progress bar for one file."""
WORTH_TELLING = 2**30
"""Bytes to read from which on the node says so."""
READING = "Reading the {size} of {name} once, to know them again"

Loaded = TypeVar("Loaded")
LoraFiles = Sequence[tuple[Path, float]]
"""Files and strengths."""


@dataclass(frozen=True)
class LoraChoice:
    """A LoRA by its name in the list, and its strength; `AUTO`, which the first may be, is the bundle's own."""

    name: str
    strength: float


@dataclass(frozen=True, eq=False)
class ModelChoice:
    """Load Avatar Model's widgets, and the MODEL that is connected to it, if any."""

    name: str
    loras: Sequence[LoraChoice]
    precision: str
    executor: str
    devices: str
    workers: str
    base_model: "Patcher | None"

    @property
    def of_workers(self) -> bool:
        """Whether workers that run already hold the model."""
        return bool(self.workers.strip())

    def bundle(self) -> "Bundle | None":
        """The whole folder that was chosen. Raises CheckpointError when it is incomplete."""
        from liveavatar_runtime.checkpoint.bundle import find_bundle

        folder = self.name.removesuffix(BUNDLE_MARK)
        return find_bundle(bundle_folders()[folder]) if self.name.endswith(BUNDLE_MARK) else None

    def source(self, bundle: "Bundle | None") -> "Path | Patcher":
        """The connected MODEL, or the file or folder with the weights."""
        if self.base_model is not None:
            return self.base_model
        return bundle.model if bundle else diffusion_model_path(self.name)

    def lora_files(self, bundle: "Bundle | None") -> LoraFiles:
        """Those that are to be applied. Raises CheckpointError for a file that is not there any more."""
        first, *others = self.loras
        own = bundle and bundle.lora
        paths = [(own if first.name == AUTO else named_lora(first.name), first.strength)]
        paths += [(named_lora(lora.name), lora.strength) for lora in others]
        return [(path, strength) for path, strength in paths if path is not None]

    def origin(self, loras: LoraFiles) -> Origin:
        """What a report names; workers were started with their own LoRAs, which nobody here knows."""
        if self.of_workers:
            return Origin("held by running workers")
        files = tuple((path.name, strength) for path, strength in loras)
        return replace(UNKNOWN_ORIGIN, loras=files) if self.base_model is not None else Origin(self.name, files)


@dataclass(frozen=True, eq=False)
class LoadedParts:
    """A transformer, and what its folder brought along; None for what it does not have."""

    avatar: AvatarModel
    clip: "CLIP | None" = None
    vae: "Vae | None" = None
    audio_encoder: "BundleAudioEncoder | None" = None


def load_parts(choice: ModelChoice, node_id: str, notes: Notes) -> LoadedParts:
    """The notes say what was loaded, and what of the choice has no effect.

    Raises InputError for a choice that cannot work, CheckpointError for files that do not fit.
    """
    bundle = choice.bundle()
    loras = choice.lora_files(bundle)
    progress = LoadingProgress(node_id, 5 if bundle else 2)
    if choice.of_workers:
        refuse_base_model(choice.base_model)
        avatar = progress.part(None, lambda _: model_of_name(choice.workers))
        notes.tell(describe_workers(avatar))
        notes.warn(ignored_loras(loras, bundle and bundle.lora))
    else:
        source = choice.source(bundle)
        avatar, fitted = load_model(choice, source, loras, progress, notes)
        tell_loras(notes, loras, fitted)
        notes.tell(description(avatar))
        changed = changed_weights(avatar.loaded, loras, fitted)
        tell_distillation(notes, avatar, changed, source, bundle is not None)
    notes.warn(*told_of_model(avatar, choice), idle_gpus(avatar, choice))
    avatar = replace(avatar, origin=choice.origin(loras))
    if bundle is None:
        return LoadedParts(avatar)
    if choice.base_model is None and not choice.of_workers:
        avatar = replace(avatar, made_for=bundle.video_size)
    return LoadedParts(avatar, *_bundle_parts(bundle, progress))


def load_model(
    choice: ModelChoice, source: "Path | Patcher", loras: LoraFiles, progress: "LoadingProgress", notes: Notes
) -> "tuple[AvatarModel, list[FittedLora]]":
    """The model of a file, a folder or a connected MODEL, and what of each LoRA is applied."""
    path = source if isinstance(source, Path) else None
    if path is not None:
        check_precision(choice.precision, own_device())
    if not runs_here(choice.executor):
        refuse_base_model(choice.base_model)
        assert path is not None
        avatar = model_of_group(choice.executor, choice.devices, path, loras, choice.precision)
        return replace(avatar, key=progress.key(path, loras)), loras_for_workers(avatar.config, loras)
    if isinstance(source, Path):
        dtype, file = PRECISIONS[choice.precision], source
        source = progress.part(file, lambda advance: load_with_core(file, [], dtype, advance, notes.warn))
    patched, fitted = with_loras(source, loras)
    avatar = on_devices(adopt(patched), choice.executor, choice.devices)
    return avatar if path is None else replace(avatar, key=progress.key(path, loras)), fitted


class LoadingProgress:
    """The progress bar of loading several files: each takes an equal part of it."""

    def __init__(self, node_id: str, count: int) -> None:
        self._bar, self._done = NodeProgress(node_id, count * TICKS), 0
        self._node_id = node_id

    def part(self, path: Path | None, load: Callable[[Progress], Loaded]) -> Loaded:
        """The result of `load`, which may call back with what it has done and what there is to do."""
        start = time.perf_counter()
        result = load(lambda done, total: self._bar.advance_to(TICKS * self._done + TICKS * done // total))
        self._done += 1
        self._bar.advance_to(TICKS * self._done)
        if path is not None:
            log.info("Loaded %s in %.1f s", path, time.perf_counter() - start)
        return result

    def key(self, path: Path, loras: LoraFiles) -> str:
        """The key of a file's weights (`weights_key`), which may have to be read for it."""
        from liveavatar_runtime.checkpoint.weights_key import weights_key

        def compute(advance: Progress) -> str:
            tick = -1

            def on_bytes(done: int, total: int) -> None:
                nonlocal tick
                stop_if_interrupted()
                if tick < 0 and total > WORTH_TELLING:
                    show_text(self._node_id, READING.format(name=path.name, size=size_text(total)))
                if tick < TICKS * done // total:
                    tick = TICKS * done // total
                    advance(done, total)

            return weights_key(path, loras, known_hashes(), on_bytes)

        return self.part(None, compute)


def _bundle_parts(
    bundle: "Bundle", progress: LoadingProgress
) -> "tuple[CLIP | None, Vae | None, BundleAudioEncoder | None]":
    """Text encoder, VAE and audio encoder of a bundle; None for what it does not have."""
    from .bundle_clip import load_bundle_clip

    return (
        progress.part(bundle.text_encoder, lambda _: load_bundle_clip(bundle)),
        progress.part(bundle.vae, lambda _: load_bundle_vae(bundle)),
        progress.part(bundle.wav2vec2, lambda _: load_bundle_audio_encoder(bundle)),
    )


def named_lora(name: str) -> Path | None:
    return None if name == NONE else model_path("loras", name)


def told_of_model(avatar: AvatarModel, choice: ModelChoice) -> list[str]:
    """What on the model, or beside a connected one or that of workers, has no effect."""
    precision = choice.precision
    told = [] if avatar.loaded is None else without_effect(avatar.loaded)
    if choice.base_model is not None and precision != AUTO:
        told.append(
            f"precision {precision} has no effect on base_model; set it in the loader of that model, or with a "
            "ModelComputeDtype node after it."
        )
    if avatar.workers is not None and not avatar.devices and precision != AUTO:
        told.append(f"precision {precision} has no effect on workers that run already; start them with --precision.")
    return told


def idle_gpus(avatar: AvatarModel, choice: ModelChoice) -> str | None:
    """That GPUs of this machine have nothing to do, if the model is here and nobody chose that."""
    return None if avatar.workers is not None else idle_devices(choice.executor, choice.devices, all_devices())


def description(avatar: AvatarModel) -> str:
    """What was loaded, for the node: where it is, or size of the model and computing format."""
    if avatar.workers is not None:
        return describe_workers(avatar)
    return f"{avatar.patcher.model_size() / 2**30:.2f} GiB, computes in {str(avatar.dtype).removeprefix('torch.')}"
