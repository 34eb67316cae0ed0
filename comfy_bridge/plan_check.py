"""Plan Check at work: what a plan would take, on this machine or another one, with nothing loaded and nothing run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from liveavatar_runtime.device_kinds import shares_ram
from liveavatar_runtime.devices import AUTO, all_devices
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.table import check_devices, check_executor, needs_named_devices, resolve
from liveavatar_runtime.planning.known_machines import THIS_MACHINE
from liveavatar_runtime.planning.memory import CacheChoice
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import PlanRequest
from liveavatar_runtime.texts import GIB

from .avatar import AvatarModel
from .device_checks import check_fp8, check_precision
from .folders import bundle_folders, model_files
from .hardware import device_of
from .memory import (
    device_memory,
    free_ram,
    in_ram,
    leaves_weights_on_disk,
    loaded_in_ram,
    on_disk_bytes,
    own_device,
)
from .model_loading import BUNDLE_MARK
from .page_sizes import KnownDevice, known_device
from .unloaded_model import UnloadedModel, assumed_model, unloaded_model
from .vae import vae_parameters, vae_place
from .worker_model import chosen_places

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice
    from liveavatar_runtime.executors.plan_case import Case, Decoding
    from liveavatar_runtime.executors.plan_report import PlanReport
    from liveavatar_runtime.planning.machines import Machines

FP8_14B, BF16_14B = "14B model in fp8", "14B model in bf16"
"""Models that need not be there."""
OTHERS = 12 * GIB
"""RAM that another machine is taken to need beside weights and caches: text encoder in fp8 (6.3), LoRA (1.2), VAE and
audio encoder (0.8), ComfyUI and the system (4), rounded."""


def model_choices() -> list[str]:
    """What `model_file` may be."""
    return [FP8_14B, BF16_14B, *(name + BUNDLE_MARK for name in bundle_folders()), *model_files()]


@dataclass(frozen=True, eq=False)
class CheckInputs:
    """What is connected to Plan Check."""

    plan: PlanRequest | ClipPlan
    model: AvatarModel | None = None
    voice: "Voice | None" = None
    audio: object = None
    image: object = None


@dataclass(frozen=True)
class CheckSettings:
    """Plan Check's widgets. `ram`: GiB of a machine that is not this one. What chooses a model counts where none is
    connected, `executor` on another machine as well."""

    machine: str = THIS_MACHINE
    ram: float = 64.0
    model_file: str = FP8_14B
    precision: str = AUTO
    executor: str = AUTO
    devices: str = AUTO
    caches: CacheChoice = CacheChoice()

    @property
    def is_here(self) -> bool:
        return self.machine == THIS_MACHINE


@dataclass(frozen=True)
class Place:
    """A machine, and what of its RAM is there, taken by others, and taken by the plan's weights, in bytes. `every`: all
    its devices, where not all of them work. `known`: the kind of this machine's devices, and what runs took."""

    name: str
    machines: "Machines"
    ram: float
    taken: float
    weights: int = 0
    every: "Machines | None" = None
    decodes: tuple[bool, ...] = (True,)
    known: KnownDevice | None = None


def check_choice(settings: CheckSettings) -> None:
    """Raises InputError for an executor, devices or number formats that the machine cannot have."""
    check_executor(settings.executor)
    if settings.is_here:
        places = chosen_places(settings.executor, settings.devices) or [own_device()]
        check_fp8(settings.caches.kv_dtype, places)
        check_precision(settings.precision, places[0])


def check_plan(inputs: CheckInputs, settings: CheckSettings) -> "PlanReport":
    """Whether the plan fits, what it takes, and what would make it fit or faster.

    Raises InputError for what no machine could sample, and for workers of other machines, whose memory is not known.
    """
    from liveavatar_runtime.executors.plan_advice import advise
    from liveavatar_runtime.executors.plan_case import answer
    from liveavatar_runtime.executors.plan_report import PlanReport
    from liveavatar_runtime.planning.size_presets import unsuitable_size

    model = _model(inputs, settings)
    plan, is_final, told = _plan(inputs)
    case, place = _case(model, plan, inputs, settings)
    found = answer(case)
    told += (unsuitable_size(model.config, model.made_for, plan),)
    final = plan if is_final else None
    return PlanReport(found, advise(found), place.name, model.name, final, tuple(filter(None, told)))


def picture_of(report: "PlanReport") -> Tensor:
    """The chart of a report as an IMAGE [1, H, W, 3], 0..1."""
    from liveavatar_runtime.media.bar_chart import draw_chart

    pixels = np.asarray(draw_chart(report.chart()), dtype=np.float32) / 255
    return torch.from_numpy(pixels)[None]


def _plan(inputs: CheckInputs) -> tuple[ClipPlan, bool, tuple[str, ...]]:
    """With its final size and length; whether the length is known; and what is not as it will be."""
    request = PlanRequest(inputs.plan) if isinstance(inputs.plan, ClipPlan) else inputs.plan
    frames = _voice_frames(inputs, request)
    plan = request.plan if frames is None else request.for_voice(frames)
    told = []
    if plan.keep_aspect:
        told.append("" if inputs.image is not None else NO_PICTURE)
        plan = plan.fitted_to(*_picture(inputs.image, plan))
    return plan, frames is not None or not request.follows_voice, tuple(told)


NO_PICTURE = (
    "No image is connected and keep_aspect is on, so the size is counted for a picture of the plan's own aspect. "
    "Connect the picture, or choose a size by its name in Clip Scheduler."
)


def _picture(image: object, plan: ClipPlan) -> tuple[int, int]:
    """(height, width)."""
    if image is None:
        return plan.height, plan.width
    from liveavatar_runtime.media.images import read_picture

    picture, _ = read_picture(image)
    return picture.shape[0], picture.shape[1]


def _voice_frames(inputs: CheckInputs, request: PlanRequest) -> int | None:
    """Of the voice, if one is connected."""
    from liveavatar_runtime.duration import frames_for_samples

    fps = request.plan.fps
    if inputs.voice is not None and not inputs.voice.is_live:
        return inputs.voice.video_frames(fps)
    if inputs.audio is None:
        return None
    from .audio_input import read_audio

    sound = read_audio(inputs.audio)
    return frames_for_samples(sound.waveform.shape[1], fps, sound.sample_rate)


def _model(inputs: CheckInputs, settings: CheckSettings) -> UnloadedModel:
    """Sizes of the connected model, or of the chosen file by its header."""
    from liveavatar_runtime.executors.plan_changes import FP8_WEIGHT_BYTES
    from liveavatar_runtime.planning.workload import Workload
    from liveavatar_runtime.vae.config import WAN_2_1

    connected, assumed = inputs.model, assumed_model()
    if connected is None:
        if settings.model_file == BF16_14B:
            return replace(assumed, name=BF16_14B)
        if settings.model_file == FP8_14B:
            size = int(assumed.stored_bytes / 2 * FP8_WEIGHT_BYTES)
            return replace(assumed, name=FP8_14B, stored_bytes=size)
        return replace(unloaded_model(settings.model_file, settings.precision), name=settings.model_file)
    work = Workload(connected.config, ClipPlan(), connected.dtype)
    size = work.weights(work.layers) if connected.loaded is None else connected.patcher.model_size()
    return UnloadedModel("connected", connected.config, size, connected.dtype, WAN_2_1, connected.made_for)


def _case(model: UnloadedModel, plan: ClipPlan, inputs: CheckInputs, settings: CheckSettings) -> "tuple[Case, Place]":
    from liveavatar_runtime.executors.plan_case import Case
    from liveavatar_runtime.planning.workload import Workload

    connected = inputs.model if settings.is_here else None
    on_disk = _on_disk(inputs.model, model, settings)
    work = Workload(model.config, plan, model.dtype, stored_bytes=model.stored_bytes, on_disk_bytes=on_disk)
    if settings.is_here:
        executor, devices = _executor_here(connected, settings)
        place = _here(devices, _weights_here(connected, model, on_disk))
    else:
        executor = settings.executor
        place = _elsewhere(settings, model.stored_bytes)
    kinds = [torch.device(device.kind, number) for number, device in enumerate(place.machines.devices)]
    check_devices(executor, kinds, model.config)
    case = Case(
        work=work,
        machines=place.machines,
        decodes=place.decodes,
        vae=_decoding(model, settings),
        ram=place.ram,
        taken=place.taken,
        weights_in_ram=place.weights,
        executor=executor,
        caches=settings.caches,
        every=place.every,
        precision=settings.precision,
    )
    if place.known is not None:
        case = replace(case, card=place.known.name, observed=place.known.observed)
    return case, place


def _on_disk(connected: AvatarModel | None, model: UnloadedModel, settings: CheckSettings) -> int:
    """Bytes of weights that stay in their file here; of another machine it is not known, so none."""
    if not settings.is_here:
        return 0
    if connected is not None and connected.loaded is not None:
        return on_disk_bytes(connected.patcher)
    return model.stored_bytes if leaves_weights_on_disk() else 0


def _executor_here(connected: AvatarModel | None, settings: CheckSettings) -> tuple[str, Sequence[torch.device]]:
    if connected is None:
        places = chosen_places(settings.executor, settings.devices) or [own_device()]
        return resolve(settings.executor, places), places
    if not connected.devices_here:
        raise InputError(
            "the connected model is in workers of other machines, whose memory is not known here. Choose their kind in "
            "machine, or load the model without workers."
        )
    return connected.executor, connected.devices_here


@dataclass(frozen=True)
class Held:
    """Bytes of weights in RAM: `here` now, and `coming`, which are still to be read."""

    here: int = 0
    coming: int = 0


def _weights_here(connected: AvatarModel | None, model: UnloadedModel, on_disk: int) -> Held:
    if on_disk or shares_ram(own_device()):
        return Held()
    if connected is not None:
        return Held(here=in_ram(connected.loaded))
    held = loaded_in_ram(model.stored_bytes)
    return Held(here=held, coming=model.stored_bytes - held)


def _here(devices: Sequence[torch.device], weights: Held) -> Place:
    from liveavatar_runtime.planning.measured import place_of

    vae_device = vae_place()[0]
    in_all, free = device_memory(torch.device("cpu")), free_ram()
    left, taken = free - weights.coming, in_all - free - weights.here
    machines = _machines_of(devices, left)
    gpus = [device for device in all_devices() if device.type == "cuda"]
    more = len(gpus) > len(set(devices)) and devices[0].type == "cuda"
    every = _machines_of(gpus, left) if more else None
    decodes = tuple(place_of(device) == place_of(vae_device) for device in devices)
    known, held = known_device(devices[0]), weights.here + weights.coming
    return Place(THIS_MACHINE, machines, in_all, taken, held, every, decodes, known)


def _machines_of(devices: Sequence[torch.device], ram: float) -> "Machines":
    from liveavatar_runtime.planning.machines import Machines
    from liveavatar_runtime.planning.measured import stages_beside

    known = known_device(devices[0]).rates
    rates = {name: getattr(known, name) for name in ("flops", "decode_flops", "rates", "source", "error")}
    return Machines.here(
        replace(device_of(device), shared_by=stages, ram=ram, **rates)
        for device, stages in zip(devices, stages_beside(devices), strict=True)
    )


def _elsewhere(settings: CheckSettings, weights: int) -> Place:
    from liveavatar_runtime.planning.device import RESERVED_SHARE
    from liveavatar_runtime.planning.known_machines import known_machine

    ram = settings.ram * GIB
    machines, every = known_machine(settings.machine, ram * (1 - RESERVED_SHARE) - OTHERS - weights), None
    if settings.executor != AUTO and not needs_named_devices(settings.executor):
        machines, every = replace(machines, devices=machines.devices[:1], machine_of=(0,)), machines
    decodes = (True, *[False] * (len(machines.devices) - 1))
    name = f"{settings.machine} with {settings.ram:g} GiB of RAM"
    return Place(name, machines, ram, OTHERS, weights, every, decodes)


def _decoding(model: UnloadedModel, settings: CheckSettings) -> "Decoding":
    from liveavatar_runtime.executors.plan_case import Decoding

    dtype = vae_place()[1] if settings.is_here else torch.bfloat16
    return Decoding(model.vae, dtype, vae_parameters(model.vae))
