"""What each size of Clip Scheduler takes on this machine, before a run, as JSON for the page and for scripts."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, get_args

import torch

from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.duration import FRAMES_PER_BLOCK
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.planning import plan_presets
from liveavatar_runtime.planning.estimates import file_rates
from liveavatar_runtime.planning.memory import CacheChoice, KVCacheChoice, KVTypeChoice, ScheduleChoice
from liveavatar_runtime.planning.size_presets import CUSTOM, PRESETS, check_size, unsuitable_size
from liveavatar_runtime.sampling.plan import ClipPlan

from .hardware import device_of
from .input_files import picture_size
from .memory import free_ram, loaded_in_ram, own_device
from .observed_speeds import observed
from .unloaded_model import UnloadedModel, assumed_model, unloaded_model
from .vae import vae_parameters, vae_place
from .worker_model import chosen_places

if TYPE_CHECKING:
    from liveavatar_runtime.executors.size_costs import Setup, SizeCost
    from liveavatar_runtime.planning.device import Device
    from liveavatar_runtime.planning.observed import ObservedSpeeds
    from liveavatar_runtime.planning.workload import Workload

Json = dict[str, Any]


@dataclass(frozen=True)
class SizeQuestion:
    """Widgets of Clip Scheduler, Load Avatar Model and DiT Sampler, as far as they decide; `picture`: (width, height)
    of the one that is connected, where it is known."""

    plan: ClipPlan
    size: str
    caches: CacheChoice
    model: UnloadedModel
    executor: str
    devices: Sequence[torch.device]
    picture: tuple[int, int] | None
    elsewhere: bool = False
    """Whether workers that run already sample."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "SizeQuestion":
        """From JSON: {"plan": widgets of Clip Scheduler (`PLAN_FIELDS`, size and preset), "caches": of DiT Sampler
        (`CACHE_FIELDS`), "model": of Load Avatar Model (model, precision, executor, devices, workers) or null for the
        14B model in bf16, "image": name of an input file or null}; all of it may be left out.

        Raises InputError for values that no run would take.
        """
        plan, model = _with_preset(_table(given, "plan")), dict(_table(given, "model"))
        size = plan.pop("size")
        executor, devices = str(model.get("executor", AUTO)), str(model.get("devices", AUTO))
        return cls(
            ClipPlan(num_clip=1, fps=Fraction(16), **plan),
            size,
            _caches(_table(given, "caches")),
            _model(model),
            executor,
            chosen_places(executor, devices) or [own_device()],
            _picture(given.get("image")),
            bool(str(model.get("workers", "")).strip()),
        )


def _caches(given: Mapping[str, Any]) -> CacheChoice:
    for name, value in given.items():
        allowed = CACHE_FIELDS.get(name, ())
        if value not in allowed:
            raise InputError(f"{name} is {value!r}; allowed are {', '.join(allowed) or ', '.join(CACHE_FIELDS)}")
    return CacheChoice(**given)


def _model(choice: Mapping[str, Any]) -> UnloadedModel:
    if "model" not in choice:
        return assumed_model()
    return unloaded_model(str(choice["model"]), str(choice.get("precision", AUTO)))


def _with_preset(plan: Mapping[str, Any]) -> Json:
    """The widgets as a run takes them: those that the preset decides, as it does."""
    widgets = dict(plan)
    preset, size = (str(widgets.pop(name, CUSTOM)) for name in ("preset", "size"))
    chosen = plan_presets.decided(preset, {**_known(widgets, PLAN_FIELDS), "size": check_size(size)})
    return {name: value for name, value in chosen.items() if name in (*PLAN_FIELDS, "size")}


PLAN_FIELDS: dict[str, type] = {
    "width": int,
    "height": int,
    "keep_aspect": bool,
    "steps": int,
    "window_blocks": int,
    "infer_frames": int,
}
CACHE_FIELDS: dict[str, tuple[str, ...]] = {
    "kv_cache": get_args(KVCacheChoice),
    "kv_dtype": get_args(KVTypeChoice),
    "schedule": get_args(ScheduleChoice),
}


def _picture(name: object) -> tuple[int, int] | None:
    """(width, height); None for one that is not there, as in a workflow of somebody else."""
    size = None
    if isinstance(name, str):
        with suppress(InputError):
            size = picture_size(name)
    return size


def _table(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = given.get(name) or {}
    if not isinstance(value, dict):
        raise InputError(f"{name} is a {type(value).__name__}; it must be an object")
    return value


def _known(values: Mapping[str, Any], fields: Mapping[str, type]) -> Json:
    """Raises InputError for other names and other types."""
    for name, value in values.items():
        if type(value) is not fields.get(name):
            raise InputError(f"{name} is {value!r}; allowed are {', '.join(fields)} with the types of their widgets")
    return dict(values)


def size_answer(given: Mapping[str, Any]) -> Json:
    """What `SizeQuestion.of` reads becomes {"device", "devices", "rate", "model", "selected", "sizes", "presets",
    "file"}: the device's name, how many there are, where its rates come from (`Source`), the model's
    name ("" for an assumed one), what the widgets stand for, every size and every preset of Clip Scheduler by its name,
    and the bytes, [least, most], of a frame and of a second of sound in a file of the selected size.

    Of each size: `width`, `height`, `caches` (bytes), `memory` (bytes on each device, weights included), `ram` (bytes
    of caches and weights there), `streams` (weights from RAM), `fits`, `fps` and `first_block` (seconds), each
    {"low", "likely", "high"} or None where the rates are not known, `time` of a
    block, relative to that of the selected size, `cropped` (part of the picture that is lost, None without one),
    `suits` the model. `memory` is empty and `fits` None where workers sample. Raises InputError.
    """
    question = SizeQuestion.of(given)
    known = known_device(question.devices[0])
    costs = {name: Cost.of(question, known, size) for name, size in PRESETS.items()}
    size = _selected(question)
    selected = Cost.of(question, known, size)
    presets = {name: _of_preset(question, known, name) for name in plan_presets.PRESETS}
    return {
        "device": known.name,
        "devices": len(question.devices),
        "rate": known.rates.source,
        "model": question.model.name,
        "selected": selected.as_json(selected),
        "sizes": {name: cost.as_json(selected) for name, cost in costs.items()},
        "presets": {name: cost.as_json(selected) for name, cost in presets.items()},
        "file": asdict(file_rates(*size)),
    }


def selected_cost(given: Mapping[str, Any]) -> "Cost":
    """Of what the widgets in a question stand for. Raises InputError."""
    question = SizeQuestion.of(given)
    return Cost.of(question, known_device(question.devices[0]), _selected(question))


def _of_preset(question: SizeQuestion, known: "KnownDevice", name: str) -> "Cost":
    """Of a preset of Clip Scheduler, for the same model, caches, devices and picture."""
    plan = question.plan
    shape = {"width": plan.width, "height": plan.height, "size": question.size}
    fields = _with_preset({**shape, "preset": name})
    size = PRESETS[fields.pop("size")]
    return Cost.of(replace(question, plan=replace(plan, **fields)), known, size)


def _selected(question: SizeQuestion) -> tuple[int, int]:
    """(width, height) that the widgets give for the picture."""
    if question.size != CUSTOM:
        return PRESETS[question.size]
    plan, picture = question.plan, question.picture
    if picture is not None:
        plan = plan.fitted_to(picture[1], picture[0])
    return plan.width, plan.height


@dataclass(frozen=True)
class KnownDevice:
    """A device's name, and its rates; of one that is not known only relations count (source "unknown"). `observed`:
    what runs on this machine took."""

    name: str
    rates: "Device"
    observed: "ObservedSpeeds"


def known_device(device: torch.device) -> KnownDevice:
    from liveavatar_runtime.planning.calibration import short_name
    from liveavatar_runtime.planning.measured import kind_of
    from liveavatar_runtime.planning.presets import CARDS, RTX_4090
    from liveavatar_runtime.planning.presets import PRESETS as MACHINES

    name = short_name(kind_of(device))
    cards = {**CARDS, **{card.name: card for machines in MACHINES for card in machines.devices}}
    found = cards.get(name)
    return KnownDevice(name, replace(RTX_4090, source="unknown") if found is None else found, observed())


@dataclass(frozen=True)
class Cost:
    """A size with what it takes; `here` is None where other processes sample."""

    question: SizeQuestion
    known: KnownDevice
    work: "Workload"
    here: "SizeCost | None"

    @classmethod
    def of(cls, question: SizeQuestion, known: KnownDevice, size: tuple[int, int]) -> "Cost":
        from liveavatar_runtime.executors.size_costs import at_size, size_cost
        from liveavatar_runtime.executors.table import resolve, runs_here
        from liveavatar_runtime.planning.workload import Workload

        model, executor = question.model, resolve(question.executor, question.devices)
        whole = Workload(model.config, question.plan, model.dtype, stored_bytes=model.stored_bytes)
        work = at_size(whole, *size)
        here = (
            size_cost(work, setup_of(question, work, known)) if runs_here(executor) and not question.elsewhere else None
        )
        return cls(question, known, work, here)

    def as_json(self, selected: "Cost") -> Json:
        from liveavatar_runtime.planning.memory import cache_bytes

        plan, model, here = self.work.plan, self.question.model, self.here
        return {
            "width": plan.width,
            "height": plan.height,
            "caches": cache_bytes(self.work, self.question.caches.as_said()),
            "memory": [] if here is None else [int(size) for size in here.memory],
            "ram": None if here is None else int(here.ram),
            "streams": here is not None and here.streams,
            "fits": None if here is None else here.fits,
            **self._speed(),
            "time": self._seconds / selected._seconds,
            "cropped": self._cropped(),
            "suits": not unsuitable_size(model.config, model.made_for, plan),
        }

    def _speed(self) -> Json:
        here = self.here
        if here is None or here.source == "unknown" or here.fps is None or here.first_block is None:
            return {"fps": None, "first_block": None, "source": "unknown"}
        return {"fps": here.fps.as_json(), "first_block": here.first_block.as_json(), "source": here.source}

    @property
    def _seconds(self) -> float:
        """Of a block, as far as operations tell where nothing was planned."""
        if self.here is not None and self.here.fps is not None:
            return FRAMES_PER_BLOCK / self.here.fps.likely
        work = self.work
        return (work.plan.steps * work.evaluation_flops(work.layers) + work.decode_flops()) / self.known.rates.flops

    def _cropped(self) -> float | None:
        from liveavatar_runtime.planning.sizes import cropped

        if self.question.picture is None:
            return None
        width, height = self.question.picture
        return cropped(height, width, self.work.plan.height, self.work.plan.width)[1]


def setup_of(question: SizeQuestion, work: "Workload", known: KnownDevice) -> "Setup":
    """The devices as the run will see them, with the VAE's work where ComfyUI puts it."""
    from liveavatar_runtime.executors.size_costs import Setup
    from liveavatar_runtime.executors.table import resolve
    from liveavatar_runtime.planning.machines import Machines
    from liveavatar_runtime.planning.measured import place_of, stages_beside
    from liveavatar_runtime.planning.memory import decode_bytes

    vae_device, vae_dtype = vae_place()
    size = vae_parameters(question.model.vae) * vae_dtype.itemsize
    size += decode_bytes(question.model.vae, work.plan, vae_dtype)
    decodes = [place_of(device) == place_of(vae_device) for device in question.devices]
    held = loaded_in_ram(question.model.stored_bytes)
    rates = {name: getattr(known.rates, name) for name in ("flops", "decode_flops", "rates", "source", "error")}
    devices = [
        replace(device_of(device), occupied=size * beside, shared_by=stages, ram=free_ram() + held, **rates)
        for device, beside, stages in zip(question.devices, decodes, stages_beside(question.devices), strict=True)
    ]
    machines = Machines.here(devices, decodes.index(True) if True in decodes else None)
    executor = resolve(question.executor, question.devices)
    return Setup(
        machines=machines,
        decoder_bytes=size,
        executor=executor,
        caches=question.caches,
        cards=(known.name,) * len(devices),
        observed=known.observed,
    )
