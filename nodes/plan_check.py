"""Plan Check: whether a plan fits a machine, where the memory goes, how long it takes, and what would help."""

from typing import TYPE_CHECKING, get_args

from comfy_api.latest import io, ui

from liveavatar_runtime.executors.table import NAMES
from liveavatar_runtime.planning.known_machines import NAMES as MACHINES
from liveavatar_runtime.planning.known_machines import THIS_MACHINE
from liveavatar_runtime.planning.memory import CacheChoice, KVCacheChoice, KVTypeChoice, ScheduleChoice
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import PlanRequest

from ..comfy_bridge.avatar import AvatarModel
from ..comfy_bridge.model_loading import AUTO, PRECISIONS
from ..comfy_bridge.notes import Notes
from ..comfy_bridge.plan_check import (
    FP8_14B,
    CheckInputs,
    CheckSettings,
    check_choice,
    check_plan,
    model_choices,
    picture_of,
)
from ..comfy_bridge.validation import check_number, other_widgets, verdict
from .search_words import search_words
from .types import CATEGORY, AudioSocket, ModelSocket, PlanSocket

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice


class PlanCheck(io.ComfyNode):
    """Asks the planner what a run would take. Nothing is loaded and nothing is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_PlanCheck",
            display_name="Plan Check",
            category=CATEGORY,
            description="Says before a run whether a plan fits, where the memory goes, how long it takes, and which "
            "changes would help.",
            search_aliases=search_words("LiveAvatar_PlanCheck"),
            inputs=[
                PlanSocket.Input("plan", tooltip="From Clip Scheduler."),
                io.Combo.Input(
                    "machine",
                    options=list(MACHINES),
                    default=THIS_MACHINE,
                    tooltip="Where the video would be made: this machine with what is free now, or another one, to "
                    "ask before you buy or rent.",
                ),
                io.Float.Input(
                    "ram",
                    default=64.0,
                    min=1.0,
                    max=100_000.0,
                    step=1.0,
                    tooltip="RAM of another machine in GiB; of this machine it is known.",
                ),
                io.Combo.Input(
                    "model_file",
                    options=model_choices(),
                    default=FP8_14B,
                    tooltip="Model that is asked about when none is connected; only its file's header is read. The "
                    "first two need no file.",
                ),
                ModelSocket.Input(
                    "model",
                    optional=True,
                    tooltip="From Load Avatar Model, used instead of model_file; on this machine with its own "
                    "executor and devices.",
                ),
                AudioSocket.Input(
                    "avatar_audio",
                    optional=True,
                    tooltip="The encoded voice, for a plan that follows it.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The voice from Load Audio, for a plan that follows it; quicker than encoding it.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture, whose aspect decides the size with keep_aspect.",
                ),
                io.Combo.Input(
                    "kv_cache",
                    options=list(get_args(KVCacheChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="As in DiT Sampler: where the key/value caches are kept.",
                ),
                io.Combo.Input(
                    "kv_dtype",
                    options=list(get_args(KVTypeChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="As in DiT Sampler: number format of the caches.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(get_args(ScheduleChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="As in DiT Sampler: order of the steps.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="As in Load Avatar Model: number format of the weights of a file.",
                ),
                io.Combo.Input(
                    "executor",
                    options=list(NAMES),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="As in Load Avatar Model: how several GPUs share the work. On another machine auto is the "
                    "fastest that fits on all its cards.",
                ),
                io.String.Input(
                    "devices",
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="As in Load Avatar Model: devices of this machine, such as cuda:0,cuda:1.",
                ),
            ],
            outputs=[
                io.Boolean.Output("fits", display_name="fits", tooltip="Whether the plan fits."),
                io.String.Output("report", display_name="report", tooltip="All of it as text."),
                io.Image.Output(
                    "picture", display_name="picture", tooltip="Where the memory goes, on each card and in RAM."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, devices: str | None = None) -> bool | str:
        names = {"machine": THIS_MACHINE, "executor": AUTO, "precision": AUTO, "kv_dtype": "auto"}
        machine, executor, precision, kv_dtype = other_widgets(cls, **names)
        known = devices is not None and machine in MACHINES and executor in NAMES and precision in PRECISIONS
        settings = None
        if known and kv_dtype in get_args(KVTypeChoice):
            caches = CacheChoice(kv_dtype=kv_dtype)
            settings = CheckSettings(
                machine=machine, executor=executor, precision=precision, devices=devices or AUTO, caches=caches
            )
        return verdict(cls, (check_choice, settings))

    @classmethod
    def fingerprint_inputs(cls, machine: str | None = None, **_: object) -> float | str:
        # What is free on this machine changes between two runs; of another one nothing does.
        return float("nan") if machine in (None, THIS_MACHINE) else machine

    @classmethod
    def execute(
        cls,
        plan: PlanRequest | ClipPlan,
        machine: str,
        ram: float,
        model_file: str,
        model: AvatarModel | None = None,
        avatar_audio: "Voice | None" = None,
        audio: object = None,
        image: object = None,
        kv_cache: KVCacheChoice = "auto",
        kv_dtype: KVTypeChoice = "auto",
        schedule: ScheduleChoice = "auto",
        precision: str = AUTO,
        executor: str = AUTO,
        devices: str = AUTO,
    ) -> io.NodeOutput:
        check_number(cls, ram=ram)
        caches = CacheChoice(kv_cache, kv_dtype, schedule)
        settings = CheckSettings(machine, ram, model_file, precision, executor, devices, caches)
        report = check_plan(CheckInputs(plan, model, avatar_audio, audio, image), settings)
        headline, *others = report.lines()
        notes = Notes(*others) if not report.found.fits else Notes(headline, *others)
        notes.warn("" if report.found.fits else headline)
        picture = picture_of(report)
        shown = ui.PreviewImage(picture, cls=cls)
        return notes.output(report.found.fits, "\n".join(report.lines()), picture, shown=shown)
