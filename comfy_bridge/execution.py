"""DiT Sampler at work: picture, voice, prompt and plan become a lazy stream of latent blocks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.dit.placement import StoredType
from liveavatar_runtime.duration import block_start, format_time
from liveavatar_runtime.errors import InputError, MachineError, replaced
from liveavatar_runtime.planning.memory import CacheChoice, ram_bytes
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import PlanRequest
from liveavatar_runtime.sampling.run import KeepRings, RunStart, SamplingRun
from liveavatar_runtime.sampling.takes import ResolvedTakes, resolved
from liveavatar_runtime.spool.latent_stream import LatentStream, Storage, StreamHooks
from liveavatar_runtime.spool.spliced_stream import SplicedStream
from liveavatar_runtime.spool.states import StateSettings
from liveavatar_runtime.texts import size_text

from .attention_choice import ChosenAttention, choose_attention, patches_key
from .avatar import AvatarLatents, AvatarModel
from .avatar_script import AvatarScript, check_sound, read_changes
from .cause_of_nan import cause_of_nan
from .device_checks import check_compile, check_fp8, unknown_memory
from .driving_video import PoseInput, check_pose_encoder, pose_of, read_driving_video
from .executor_choice import choose_executor
from .memory import pinning_warning
from .model_fingerprint import numerics_of, weights_of
from .notes import Notes
from .prepared_job import PreparedJob
from .progress import preparation, show_text, stop_if_interrupted
from .prompt_input import read_prompt
from .run_facts import facts_of
from .sampling_job import SamplingJob
from .sampling_report import SamplingReport
from .spool_folder import (
    KEEP,
    NamedVideo,
    SpoolChoice,
    finished_clips,
    named_video,
    open_spool,
    spool_of_take,
    state_settings,
)
from .vae import managed_vae
from .voice import encode_ahead

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice
    from liveavatar_runtime.sampling.driven_pose import DrivenPose, DrivingVideo
    from liveavatar_runtime.sampling.plan_request import VoicedPlan
    from liveavatar_runtime.sampling.prepare import Prepared
    from liveavatar_runtime.sampling.timed_changes import PlacedChanges
    from liveavatar_runtime.spool.spool import Spool

    from .comfy_types import Hidden, Vae
    from .live.latents import LiveLatents

READING = "Reading the weights of base_model once, to know its finished clips again"


@dataclass(frozen=True, eq=False)
class SamplerInputs:
    """What is connected to DiT Sampler; `positive`, `image` and `pose` as they come, from whatever node; the script if
    there is one."""

    model: AvatarModel
    positive: object
    vae: "Vae | None"
    image: object
    voice: "Voice"
    plan: PlanRequest | ClipPlan
    script: AvatarScript | None = None
    pose: PoseInput = PoseInput()


@dataclass(frozen=True)
class SamplerSettings:
    """DiT Sampler's widgets: caches and order, attention and torch.compile, what is kept on the disk, motion strength
    where no script says another."""

    caches: CacheChoice
    attention: str
    compile_layers: bool
    spool: SpoolChoice
    motion_strength: float = 1.0


@dataclass(frozen=True, eq=False)
class Sources:
    """Inputs that were read: the plan that fits picture and voice, what the script makes of picture and prompt, and
    what drives the video, and where several speakers are, which of them moves which tokens."""

    plan: ClipPlan
    placed: "PlacedChanges"
    driving: "DrivingVideo | None"
    actor_masks: Tensor | None = None


def prepare_latents(
    inputs: SamplerInputs, settings: SamplerSettings, hidden: "Hidden", notes: Notes
) -> "AvatarLatents | LiveLatents":
    """All that can be refused is refused here, and the picture is encoded; nothing is sampled yet.

    Raises InputError for what was given, MachineError for what does not fit or is not installed.
    """
    asked = _prepared_job(inputs, settings, hidden, notes)
    if inputs.voice.is_live:
        from .live.sampling import live_latents

        _tell_executor(asked, notes)
        return live_latents(asked, settings.spool, hidden, notes)
    work, takes = _with_takes(asked, notes)
    video = _named(work, inputs.voice, settings.spool, hidden)
    work = _as_begun(work, video, settings)
    _tell_executor(work, notes)
    spool, states = _opened_spool(work, video, settings.spool, notes)
    report = SamplingReport(hidden, facts_of(work))
    hooks = StreamHooks(
        say=lambda news: show_text(report.node_id, news),
        stop_if_interrupted=stop_if_interrupted,
        cause_of_nan=lambda: cause_of_nan(work.job.model, work.numerics),
    )

    def start_run(part: ClipPlan, first: RunStart, keep_rings: KeepRings) -> SamplingRun:
        return work.start(part, first, keep_rings, report)

    stream = SplicedStream(work.job.plan, work.prepared.priming, start_run, Storage(spool, states), hooks)
    for clip, part in takes.alone.items():
        kept = Storage(spool_of_take(spool, video, part, (work.numerics, settings.spool)), states)
        stream.takes[clip] = LatentStream(part, work.prepared.priming, start_run, kept, hooks)
    notes.tell(*told_of_takes(takes, stream))
    report.follow(stream)
    takes_asked = asked.prepared.plan.takes
    beside = work.job.beside
    return AvatarLatents(stream, inputs.voice, inputs.model.workers, report, takes_asked, beside, work.picture)


def _tell_executor(work: PreparedJob, notes: Notes) -> None:
    executor = work.executor
    if executor.stages is not None and work.job.model.home.type == "cuda":
        notes.warn(pinning_warning(ram_bytes(work.job.work, executor.placement)))
    notes.warn(executor.warning)
    notes.tell(*executor.told, *work.attention.facts)


def _prepared_job(inputs: SamplerInputs, settings: SamplerSettings, hidden: "Hidden", notes: Notes) -> PreparedJob:
    attention = _checked_attention(inputs.model, settings, notes)
    sources = read_sources(inputs, settings.motion_strength, notes)
    if not inputs.voice.is_live:
        encode_ahead(inputs.voice, sources.plan, hidden.unique_id)
    job = SamplingJob(inputs.model, sources.plan, managed_vae(inputs.vae), driven=sources.driving is not None)
    if job.driven:
        notes.tell(f"Encoding pose_video takes {size_text(job.pose_bytes)}, which Plan Check does not count")
    caches = one_block_at_a_time(settings.caches, notes) if inputs.voice.is_live else settings.caches
    executor = choose_executor(job, caches)
    prepared, pose = _driven(job, sources, _encoded(job, sources, inputs.voice, hidden.unique_id))
    numerics = numerics_of(job.model, attention, executor.placement, patches_key(job.model))
    # Workers do not compile.
    numerics = replace(numerics, compiled=settings.compile_layers and job.model.workers is None)
    picture = sources.placed.picture
    voice, compiled = inputs.voice, settings.compile_layers
    return PreparedJob(job, executor, attention, compiled, prepared, numerics, picture, voice, pose)


def one_block_at_a_time(caches: CacheChoice, notes: Notes) -> CacheChoice:
    """The choice for a live video: a batch would make each block wait for those behind it, whose sound is to come."""
    if caches.schedule == "batched":
        notes.warn(
            "schedule batched is not used: in a batch each block waits for the ones behind it, which are still to be "
            "spoken. Set schedule to auto or sequential."
        )
    return replace(caches, schedule="sequential")


def _with_takes(work: PreparedJob, notes: Notes) -> tuple[PreparedJob, ResolvedTakes]:
    """The job with the seeds of the plan's takes; the notes say what they are."""
    takes = resolved(work.prepared.plan)
    if takes.beyond:
        notes.warn(
            f"takes names clip {takes.beyond[0].clip + 1}, and the video has {takes.plan.num_clip} clips: it is not "
            "used. Remove it, or make the video longer."
        )
    prepared, job = replace(work.prepared, plan=takes.plan), replace(work.job, plan=takes.plan)
    return replace(work, prepared=prepared, job=job), takes


def told_of_takes(takes: ResolvedTakes, stream: SplicedStream) -> Iterator[str]:
    """Which clips are other takes, and which of those that stand alone are to be sampled."""
    for take in takes.used:
        if not take.alone:
            yield f"From clip {take.clip + 1} on the video is take {take.number}"
        elif stream.takes[take.clip].spool.has_clip(take.clip):
            yield f"Clip {take.clip + 1} alone is take {take.number}, which is finished"
        else:
            yield f"Clip {take.clip + 1} alone is take {take.number}, which is sampled"


def _checked_attention(model: AvatarModel, settings: SamplerSettings, notes: Notes) -> ChosenAttention:
    """The attention kernel. Raises what `device_checks` raises for caches and compiling on the model's devices."""
    devices = model.devices_here
    check_fp8(settings.caches.kv_dtype, devices)
    if settings.compile_layers:
        check_compile(devices)
    chosen = choose_attention(model, settings.attention, settings.compile_layers, devices)
    notes.warn(*chosen.warnings, unknown_memory(devices))
    return chosen


def read_sources(inputs: SamplerInputs, motion_strength: float, notes: Notes) -> Sources:
    """Before a VAE is loaded or a device measured; the notes say what was changed and what looks wrong."""
    from liveavatar_runtime.media.images import read_picture
    from liveavatar_runtime.sampling.plan_request import VoicedPlan
    from liveavatar_runtime.sampling.prepare import check_audio, check_text, check_voice
    from liveavatar_runtime.sampling.timed_changes import place_changes

    config = inputs.model.config
    picture, changes = read_picture(inputs.image)
    prompt = read_prompt(inputs.positive, config.text_len)
    check_audio(inputs.voice, config)
    check_text(prompt.text, config)
    check_voice(inputs.voice)
    directed = read_changes(inputs.script, config, notes)
    voiced = VoicedPlan.of(inputs.plan, inputs.voice)
    moved = replace(voiced.plan, script=replace(voiced.plan.script, motion=motion_strength))
    placed = place_changes(moved, prompt.text, picture, directed)
    notes.warn(
        *(changes if placed.picture is picture else ()), *(prompt.warnings if placed.text is prompt.text else ())
    )
    notes.warn(*placed.warnings)
    plan = final_plan(inputs, replace(voiced, plan=placed.plan), placed.picture, notes)
    check_sound(inputs.script, inputs.voice, notes)
    notes.tell(*placed.facts)
    masks = read_areas(inputs.voice, placed, plan, notes)
    check_pictures(placed, plan, inputs.voice, notes)
    driving = read_driving_video(inputs.pose, plan, notes)
    notes.warn(check_pose_encoder(inputs.model) if driving is not None else "")
    return Sources(plan, placed, driving, masks)


def read_areas(voice: "Voice", placed: "PlacedChanges", plan: ClipPlan, notes: Notes) -> Tensor | None:
    """Which tokens each of several speakers moves. Raises InputError where that does not fit the picture."""
    from liveavatar_runtime.audio.conversation import Conversation
    from liveavatar_runtime.sampling.actor_masks import check_picture, token_weights

    if not isinstance(voice, Conversation):
        return None
    check_picture(voice, *placed.picture.shape[:2])
    notes.tell(f"{voice.actors} speakers, each in an area of the picture")
    if placed.pictures:
        notes.warn("The script changes the picture: the speakers' areas stay where they are in the first one.")
    return token_weights(voice, plan)


def check_pictures(placed: "PlacedChanges", plan: ClipPlan, voice: "Voice", notes: Notes) -> None:
    """What the video shows of each picture, and of the faces in them."""
    from liveavatar_runtime.audio.conversation import Conversation
    from liveavatar_runtime.media.faces import check_faces
    from liveavatar_runtime.planning.sizes import crop_note

    areas = voice.masks if isinstance(voice, Conversation) else None
    faces = check_faces(placed.picture, plan.height, plan.width, areas)
    notes.warn(*faces.warnings)
    notes.tell(faces.unchecked)
    for block, picture in placed.pictures.items():
        since = f"The picture from {format_time(block_start(block, plan.fps))} on"
        crop = crop_note(plan, picture.shape[0], picture.shape[1])
        warnings = check_faces(picture, plan.height, plan.width, areas).warnings
        notes.warn(*(f"{since}: {warning}" for warning in (crop, *warnings) if warning))


def final_plan(inputs: SamplerInputs, voiced: "VoicedPlan", picture: Tensor, notes: Notes) -> ClipPlan:
    """The plan for the voice and the picture; the notes say what both make of it.

    Raises InputError when no size fits.
    """
    from liveavatar_runtime.planning.advice import length_advice
    from liveavatar_runtime.planning.size_presets import unsuitable_size
    from liveavatar_runtime.planning.sizes import size_notes

    height, width = picture.shape[:2]
    plan = voiced.plan.fitted_to(height, width)
    size_warnings, size_facts = size_notes(voiced.plan, height, width)
    unsuitable = unsuitable_size(inputs.model.config, inputs.model.made_for, plan)
    notes.warn(*voiced.warnings, *size_warnings, unsuitable)
    notes.tell(*voiced.facts, size_of(plan), *size_facts)
    if voiced.was_open and not plan.endless:
        # Clip Scheduler could not know how long it becomes.
        notes.tell(*length_advice(plan))
    return plan


def size_of(plan: ClipPlan) -> str:
    """The final size of the video, and of the segment if it is made in several."""
    from liveavatar_runtime.texts import clips_text

    if plan.endless:
        return f"{plan.width}x{plan.height}, without an end: until it is stopped"
    text = f"{plan.width}x{plan.height}, {plan.num_clip} clips, {plan.frames} frames"
    part = plan.segment
    if len(part.clips) == plan.num_clip:
        return text
    return f"{text}; this segment: {clips_text(part.clips)}, {part.frames} frames"


def _encoded(job: SamplingJob, sources: Sources, voice: "Voice", node_id: str) -> "Prepared":
    """The conditions, with the picture encoded by the VAE, which is loaded for it; its colours are known then too."""
    from liveavatar_runtime.sampling.prepare import Inputs, prepare

    vae = job.vae.on_device()
    _ = job.vae.colours
    encoding = preparation(node_id, "Encoding the picture")
    placed = sources.placed
    given = Inputs(placed.picture, placed.text, voice, sources.actor_masks, placed.texts, placed.pictures)
    return prepare(job.plan, job.model.config, given, vae, encoding)


def _driven(job: SamplingJob, sources: Sources, prepared: "Prepared") -> "tuple[Prepared, DrivenPose | None]":
    """With the pose of the driving video, of which nothing is encoded yet."""
    if sources.driving is None:
        return prepared, None
    pose, key = pose_of(sources.driving, prepared.plan, job.vae)
    return replace(prepared, conditions=replace(prepared.conditions, pose=pose, pose_key=key)), pose


def _named(work: PreparedJob, voice: "Voice", choice: SpoolChoice, hidden: "Hidden") -> NamedVideo:
    """What makes the video, where its clips are kept."""
    if choice.spool != KEEP:
        return NamedVideo("", work.prepared, "")
    reading = preparation(hidden.unique_id, READING)
    return named_video(weights_of(work.job.model, reading), work.prepared, voice, work.numerics)


def _as_begun(work: PreparedJob, video: NamedVideo, settings: SamplerSettings) -> PreparedJob:
    """With the caches' dtype in which more clips of this video are finished already, where `auto` decides it.

    Another machine, or other models beside this one, may have made another choice. Raises MachineError when that one
    does not fit here, before anything is sampled.
    """
    caches = settings.caches
    if caches.kv_dtype != AUTO or settings.spool.spool != KEEP or work.job.model.workers is not None:
        return work
    other: StoredType = "model" if work.numerics.kv_dtype == "fp8" else "fp8"
    as_begun = replace(work.numerics, kv_dtype=other)
    finished, here = finished_clips(video, as_begun), finished_clips(video, work.numerics)
    if finished <= here:
        return work
    clips = work.job.plan.segment.clips.stop
    begun = f"{finished} of {clips} clips of this video are finished with kv_dtype {other}"

    def does_not_fit(error: BaseException) -> MachineError:
        return MachineError(
            f"{begun}, which does not fit here: {error} To go on with them, make room. To sample all clips anew, set "
            f"kv_dtype to {work.numerics.kv_dtype}."
        )

    with replaced((InputError, MachineError), does_not_fit):
        check_fp8(other, work.job.model.devices_here)
        executor = choose_executor(work.job, replace(caches, kv_dtype=other))
    told = (f"kv_dtype auto is {other}: {begun}", *executor.told)
    return replace(work, executor=replace(executor, told=told), numerics=as_begun)


def _opened_spool(
    work: PreparedJob, video: NamedVideo, choice: SpoolChoice, notes: Notes
) -> "tuple[Spool, StateSettings]":
    """Where the video's clips are kept, and which states."""
    states = state_settings(work.job, work.executor.placement, choice, notes)
    spool, spool_notes = open_spool(video, work.numerics, choice, states)
    spool.colours = work.job.vae.colours.tolist()
    notes.warn(*spool_notes.warnings)
    notes.tell(*spool_notes.facts)
    return spool, states
