"""DiT Sampler: picture, voice, prompt and plan to a lazy stream of latent blocks."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from comfy_api.latest import io

from liveavatar_runtime.device_kinds import shares_ram
from liveavatar_runtime.dit.attention import AttentionKernel
from liveavatar_runtime.dit.backends import BACKENDS
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.planning.memory import (
    UNKNOWN_MEMORY,
    KVCacheChoice,
    KVTypeChoice,
    Machine,
    ScheduleChoice,
    choose_placement,
)
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import PlanRequest
from liveavatar_runtime.sampling.run import Executor, KeepRings, RunStart, SamplingRequest
from liveavatar_runtime.spool.latent_stream import LatentStream, Run
from liveavatar_runtime.spool.states import StateType

from ..comfy_bridge.attention import COMFYUI_ATTENTION
from ..comfy_bridge.attention_choice import choose_attention, patches_key
from ..comfy_bridge.avatar import AvatarLatents, AvatarModel
from ..comfy_bridge.cause_of_nan import cause_of_nan
from ..comfy_bridge.device_checks import check_compile, check_fp8, unknown_memory
from ..comfy_bridge.executor_choice import executor_for
from ..comfy_bridge.memory import device_memory, free_ram, load_on_device, on_disk_bytes, tells_memory
from ..comfy_bridge.model_fingerprint import numerics_of, weights_of
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.progress import SamplingProgress, preparation, show_text, stop_if_interrupted
from ..comfy_bridge.prompt_input import read_prompt
from ..comfy_bridge.spool_folder import KEEP, SPOOL_CHOICES, SpoolChoice, open_spool, state_settings
from ..comfy_bridge.stage_models import (
    PIPELINES,
    decoder_bytes,
    describe_stages,
    patcher_on,
    pipeline_executor,
    plan_pipeline,
    transformer_of,
)
from ..comfy_bridge.vae import StreamingVAE, streaming_vae
from ..comfy_bridge.validation import check_number, verdict
from ..comfy_bridge.worker_model import worker_executor, worker_placement
from .types import CATEGORY, AudioSocket, LatentsSocket, ModelSocket, PlanSocket

if TYPE_CHECKING:
    from liveavatar_runtime.planning.stages import StagePlan

READING = "Reading the weights of base_model once, to know its finished clips again"


class DiTSampler(io.ComfyNode):
    """Prepares sampling. Nothing is sampled here: the blocks are made when a later node asks for them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_DiTSampler",
            display_name="DiT Sampler",
            category=CATEGORY,
            description="Samples the avatar block by block while Online VAE Decode takes the blocks; shows previews.",
            search_aliases=["live avatar sampler", "talking head", "lip sync", "数字人", "对口型"],
            inputs=[
                ModelSocket.Input("model", tooltip="From Load Avatar Model."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt, from CLIP Text Encode."),
                io.Vae.Input("vae", tooltip="Wan 2.1 VAE; encodes the picture."),
                io.Image.Input("image", tooltip="The picture of the avatar; the first one of a batch is used."),
                AudioSocket.Input("avatar_audio", tooltip="The voice, from Audio Encode."),
                PlanSocket.Input("plan", tooltip="From Clip Scheduler."),
                io.Combo.Input(
                    "kv_cache",
                    options=list(get_args(KVCacheChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Where the key/value caches are kept: on the device, or in RAM and brought layer by layer.",
                ),
                io.Combo.Input(
                    "kv_dtype",
                    options=list(get_args(KVTypeChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="What the caches are kept as; fp8 halves them and changes the result a little, so all "
                    "clips are sampled anew.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(get_args(ScheduleChoice)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="batched runs the blocks of all steps together, so weights are moved once a block.",
                ),
                io.Combo.Input(
                    "attention",
                    options=[COMFYUI_ATTENTION, *BACKENDS],
                    default=COMFYUI_ATTENTION,
                    optional=True,
                    advanced=True,
                    tooltip="Attention kernel; comfyui is what ComfyUI was started with. sage and flash need packages. "
                    "With or without sage, clips are sampled anew.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Run the layers through torch.compile: the first block takes minutes, later ones less.",
                ),
                io.Combo.Input(
                    "spool",
                    options=list(SPOOL_CHOICES),
                    default=KEEP,
                    optional=True,
                    advanced=True,
                    tooltip="Keep finished clips on the disk: the same video goes on after an interruption or a crash.",
                ),
                io.Float.Input(
                    "spool_budget",
                    default=20.0,
                    min=0.0,
                    max=100_000.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="GiB for clips and states of all videos; the longest unused are removed. 0: no limit.",
                ),
                io.Float.Input(
                    "state_budget",
                    default=8.0,
                    min=0.0,
                    max=100_000.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip="GiB for states to go on from, exact (14B, 688x368: 27) or fp8 (14); below it warms up.",
                ),
                io.Combo.Input(
                    "state_dtype",
                    options=list(get_args(StateType)),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="What states are kept as; fp8 halves them and goes on inexactly. auto: exact if it fits.",
                ),
            ],
            outputs=[LatentsSocket.Output("latents", display_name="latents", tooltip="Latent blocks, made on demand.")],
            hidden=[io.Hidden.unique_id],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, state_budget: float | None = None) -> bool | str:
        return verdict(cls, (lambda budget: check_number(cls, state_budget=budget), state_budget))

    @classmethod
    def execute(
        cls,
        model: AvatarModel,
        positive: Any,
        vae: Any,
        image: Any,
        avatar_audio: Any,
        plan: PlanRequest | ClipPlan,
        kv_cache: KVCacheChoice = "auto",
        kv_dtype: KVTypeChoice = "auto",
        schedule: ScheduleChoice = "auto",
        attention: str = COMFYUI_ATTENTION,
        compile: bool = False,
        spool: str = KEEP,
        spool_budget: float = 20.0,
        state_budget: float = 8.0,
        state_dtype: StateType = "auto",
    ) -> io.NodeOutput:
        from liveavatar_runtime.media.faces import check_faces
        from liveavatar_runtime.media.images import read_picture
        from liveavatar_runtime.sampling.prepare import check_audio, check_text, check_voice, prepare

        check_number(cls, spool_budget=spool_budget, state_budget=state_budget)
        notes, devices = Notes(), devices_of(model)
        check_fp8(kv_dtype, devices)
        if compile:
            check_compile(devices)
        chosen_attention = choose_attention(model, attention, compile, devices)
        notes.warn(*chosen_attention.warnings, unknown_memory(devices))
        picture, picture_changes = read_picture(image)
        prompt = read_prompt(positive, model.config.text_len)
        notes.warn(*picture_changes, *prompt.warnings)
        # Before a VAE is loaded or a device measured.
        check_audio(avatar_audio, model.config)
        check_text(prompt.text, model.config)
        check_voice(avatar_audio)
        plan = final_plan(plan, model, avatar_audio, picture.shape[0], picture.shape[1], notes)
        faces = check_faces(picture, plan.height, plan.width)
        notes.warn(*faces.warnings)
        streaming = streaming_vae(vae)
        chosen, why = executor_for(model, plan, streaming, kv_cache, kv_dtype)
        stages, placement = places_of(model, chosen, plan, streaming, kv_cache, kv_dtype, schedule)
        module, device = streaming.on_device()
        colours = streaming.colours
        node_id = cls.hidden.unique_id
        encoding = preparation(node_id, "Encoding the picture")
        of_vae = module, device, streaming.dtype
        prepared = prepare(plan, model.config, picture, prompt.text, avatar_audio, *of_vae, progress=encoding)
        notes.tell(faces.unchecked, why, "" if placement == ON_DEVICE else str(placement))
        if stages is not None:
            notes.tell(describe_stages(model, stages, plan))
        notes.tell(*chosen_attention.facts)
        numerics = numerics_of(model, chosen_attention, placement, patches_key(model))
        weights = weights_of(model, preparation(node_id, READING)) if spool == KEEP else ""
        keeping = SpoolChoice(spool, spool_budget)
        states = state_settings(model, plan, placement, state_dtype, state_budget, keeping, notes)
        kept, spool_notes = open_spool(weights, prepared, avatar_audio, numerics, keeping, states)
        notes.warn(*spool_notes.warnings)
        notes.tell(*spool_notes.facts)

        def progress(part: ClipPlan) -> SamplingProgress:
            return SamplingProgress(node_id, part, colours)

        def start(part: ClipPlan, first: RunStart, keep_rings: KeepRings) -> Run:
            if stages is not None:
                executor = pipeline_executor(model, stages, part, streaming, chosen_attention.kernel, compile)
            else:
                executor = executor_of(model, streaming, part, placement, chosen_attention.kernel, compile)
            return executor.run(SamplingRequest(prepared.conditions, part, first, progress(part), keep_rings))

        stream = LatentStream(
            plan,
            prepared.priming,
            start,
            kept,
            states,
            say=lambda news: show_text(node_id, news),
            stop_if_interrupted=stop_if_interrupted,
            cause_of_nan=lambda: cause_of_nan(model, numerics),
        )
        return notes.output(AvatarLatents(stream, avatar_audio, model.workers))


def final_plan(
    asked: PlanRequest | ClipPlan, model: AvatarModel, audio: Any, height: int, width: int, notes: Notes
) -> ClipPlan:
    """The plan for a voice (AvatarAudio) and a picture of that size; the notes say what both make of it.

    Raises InputError when the voice ends before the plan's segment, or no size fits the picture.
    """
    from liveavatar_runtime.planning.advice import length_advice
    from liveavatar_runtime.planning.size_presets import unsuitable_size
    from liveavatar_runtime.planning.sizes import size_notes
    from liveavatar_runtime.sampling.plan_request import VoicedPlan

    voiced = VoicedPlan.of(asked, audio)
    plan = voiced.plan.fitted_to(height, width)
    size_warnings, size_facts = size_notes(voiced.plan, height, width)
    notes.warn(*voiced.warnings, *size_warnings, unsuitable_size(model.config, model.made_for, plan))
    notes.tell(*voiced.facts, size_of(plan), *size_facts)
    if voiced.was_open:
        # Clip Scheduler could not know how long it becomes.
        notes.tell(*length_advice(plan))
    return plan


def size_of(plan: ClipPlan) -> str:
    """The final size of the video, and of the segment if it is made in several."""
    from liveavatar_runtime.texts import clips_text

    text = f"{plan.width}x{plan.height}, {plan.num_clip} clips, {plan.frames} frames"
    part = plan.segment
    if len(part.clips) == plan.num_clip:
        return text
    return f"{text}; this segment: {clips_text(part.clips)}, {part.frames} frames"


def places_of(
    model: AvatarModel,
    executor: str,
    plan: ClipPlan,
    vae: StreamingVAE,
    kv_cache: KVCacheChoice,
    kv_dtype: KVTypeChoice,
    schedule: ScheduleChoice,
) -> "tuple[StagePlan | None, Placement]":
    """What each device holds, for a pipeline in this process, and where the caches are.

    Raises MachineError when nothing fits.
    """
    if model.workers is not None:
        beside = decoder_bytes(vae, plan)
        return None, worker_placement(model, plan, beside, kv_cache, kv_dtype, schedule)
    if executor in PIPELINES:
        stages = plan_pipeline(model, executor, plan, vae, kv_cache, kv_dtype)
        return stages, stages.placement
    machine = machine_of(model, vae, plan)
    return None, choose_placement(model.config, plan, model.dtype, machine, kv_cache, kv_dtype, schedule)


def machine_of(model: AvatarModel, vae: StreamingVAE, plan: ClipPlan) -> Machine:
    """Memory that there is; the blocks are decoded while the next ones are sampled, so the VAE needs its part."""
    home = home_of(model)
    weights, beside = model.patcher.model_size(), decoder_bytes(vae, plan)
    memory = device_memory(home) if tells_memory(home) else UNKNOWN_MEMORY
    machine = Machine(device=memory, ram=free_ram(), weights=weights, beside=beside)
    if not shares_ram(home):
        return machine
    pool = device_memory(torch.device("cpu"))
    return replace(machine, pool=pool, on_disk=on_disk_bytes(model.patcher))


def home_of(model: AvatarModel) -> torch.device:
    """Where the model runs when it runs on one device."""
    return model.devices[0] if model.devices else model.patcher.load_device


def devices_of(model: AvatarModel) -> tuple[torch.device, ...]:
    """Where a model in this process may run."""
    return model.devices or ((home_of(model),) if model.workers is None else ())


def executor_of(
    model: AvatarModel,
    vae: StreamingVAE,
    plan: ClipPlan,
    placement: Placement,
    attention: AttentionKernel,
    compile_layers: bool,
) -> Executor:
    """The executor of a model in worker processes, or on one device, where it is loaded."""
    from liveavatar_runtime.executors.local import LocalExecutor
    from liveavatar_runtime.planning.memory import decode_bytes, working_bytes
    from liveavatar_runtime.planning.out_of_memory import sampling_told

    if model.workers is not None:
        return worker_executor(model, placement)
    patcher = patcher_on(model, home_of(model), set(range(model.config.num_layers)))
    decoding = decode_bytes(vae.patcher.model.config, plan, vae.dtype)
    needed = working_bytes(model.config, plan, model.dtype, placement) + decoding
    with sampling_told(model.config, plan, model.dtype, placement, home_of(model)):
        device = load_on_device(patcher, needed, beside=[vae.patcher])
    transformer = transformer_of(model, patcher, attention)
    if compile_layers:
        transformer.compile_layers()
    return LocalExecutor.placed(transformer, device, model.dtype, placement)
