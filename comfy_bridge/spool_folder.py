"""Where finished clips are kept: ComfyUI's user folder, so that they survive a restart, or its temporary one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths

from liveavatar_runtime.dit.backends import SAGE
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.planning.memory import ring_bytes
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Prepared
from liveavatar_runtime.sampling.video_key import EXACT, Numerics, video_key
from liveavatar_runtime.spool.chain import Chain, chain_of
from liveavatar_runtime.spool.latent_stream import clip_bytes, clip_file_bytes
from liveavatar_runtime.spool.resume import StateChoice, how_it_goes_on
from liveavatar_runtime.spool.spool import Spool
from liveavatar_runtime.spool.states import StateSettings, StateSizes, StateType
from liveavatar_runtime.spool.store import SpoolInfo, SpoolStore
from liveavatar_runtime.texts import fine_size

from .folders import temporary_root
from .notes import Notes
from .sampling_job import SamplingJob

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice

KEEP, TEMPORARY = "keep", "until ComfyUI ends"
SPOOL_CHOICES = (KEEP, TEMPORARY)
FOLDER = "liveavatar_spools"
VOICE, LONG = "voice", "long"
"""A fact about spools whose voice is named by its sound."""
GIB = 2**30


def store() -> SpoolStore:
    """The spools that survive a restart, in a folder that ComfyUI's HTTP interface does not serve."""
    return SpoolStore(Path(folder_paths.get_user_directory()) / f"__{FOLDER}")


@dataclass(frozen=True)
class SpoolChoice:
    """What DiT Sampler keeps on the disk: its `spool` and, in GiB, `spool_budget` (0: no limit) of clips and states of
    all videos, `state_budget` of this one's states; `state_dtype` of the states."""

    spool: str
    spool_budget: float = 20.0
    state_budget: float = 8.0
    state_dtype: StateType = "auto"

    @property
    def bytes_allowed(self) -> int:
        """Bytes that clips and states of all videos may take; 0: no limit."""
        # However small, a budget is one: 0 means that there is none.
        return math.ceil(self.spool_budget * GIB) if self.spool == KEEP else 0

    def left_for_states(self, plan: ClipPlan) -> float:
        """Bytes that all clips of a plan's segment, and of what is before it, leave of the budget."""
        clips = plan.segment.clips.stop * clip_file_bytes(plan)
        return max(0, self.bytes_allowed - clips) if self.bytes_allowed else math.inf


def state_settings(job: SamplingJob, placement: Placement, choice: SpoolChoice, notes: Notes) -> StateSettings:
    """How states of this job are kept. Notes say how the video will go on; first of all where segments do not bit for
    bit."""
    plan, asked = job.plan, choice.state_dtype
    sizes = StateSizes(*(ring_bytes(job.work, kept) for kept in (placement, replace(placement, kv_dtype="fp8"))))
    budget = int(min(choice.state_budget * GIB, choice.left_for_states(plan)))
    limit = "state_budget" if budget == int(choice.state_budget * GIB) else "spool_budget"
    settings = StateSettings.choose(sizes, budget, asked)
    text, bit_for_bit = how_it_goes_on(plan, settings, StateChoice(sizes, asked, limit), placement.batched)
    several = len(plan.segment.clips) < plan.num_clip
    (notes.warn if several and not bit_for_bit else notes.tell)(text)
    return settings


@dataclass(frozen=True, eq=False)
class NamedVideo:
    """What names a video, whatever computes it: the model's `weights` (`weights_of`), conditions with plan, and the
    fingerprint of its voice; `by_sound`: whether that is of the sound instead of all features. `heard`: of a voice that
    may go on what names the features of each block; `voice` is of its beginning then."""

    weights: str
    prepared: Prepared
    voice: str
    by_sound: bool = False
    heard: tuple[str, ...] = ()

    def key(self, numerics: Numerics) -> str:
        """The name of its spool when it is computed like this."""
        prepared = self.prepared
        return video_key(self.weights, numerics, prepared.conditions, self.voice, prepared.plan)

    @cached_property
    def chain(self) -> Chain:
        """What its clips are named by beside their numbers."""
        return chain_of(self.prepared.plan, self.prepared.conditions, self.heard)

    def with_plan(self, plan: ClipPlan) -> "NamedVideo":
        """The same with other seeds, such as a take."""
        return replace(self, prepared=replace(self.prepared, plan=plan))


def named_video(weights: str, prepared: Prepared, voice: "Voice", numerics: Numerics) -> NamedVideo:
    """A video whose clips are kept.

    A long or bounded voice is named by its sound and its encoder. Earlier versions, which had neither bounded ones nor
    several speakers, named it by all its features, so where there are spools that may be theirs, all of it is encoded
    to see whether one of them is this video's.
    """
    heard = voice.heard_keys(prepared.plan.fps, prepared.plan.num_blocks)
    if heard is not None:
        return NamedVideo(weights, prepared, heard[0], True, heard)
    video = NamedVideo(weights, prepared, voice.fingerprint, voice.by_sound)
    if not video.by_sound or voice.actors > 1 or _has_clips(video, numerics) or not _may_be_older(prepared.plan):
        return video
    older = replace(video, voice=voice.features_fingerprint, by_sound=False)
    return older if _has_clips(older, numerics) else video


def _has_clips(video: NamedVideo, numerics: Numerics) -> bool:
    """Whether clips are finished, with whatever settings."""
    return any(finished_clips(video, one) for one in (numerics, *other_settings(numerics)))


def _may_be_older(plan: ClipPlan) -> bool:
    """Whether there are spools of such plans whose voice was not named by its sound."""
    facts = about(plan)
    infos = (info.about for info in store().spools())
    return any(f is not None and VOICE not in f and all(f.get(name) == facts[name] for name in facts) for f in infos)


@dataclass(frozen=True)
class SpoolNotes:
    """What the user is told about a video's finished clips."""

    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def open_spool(
    video: NamedVideo, numerics: Numerics, choice: SpoolChoice, states: StateSettings
) -> tuple[Spool, SpoolNotes]:
    """The spool of a video, and notes for the user.

    Older spools make room for the clips that are missing and for `states`. Raises InputError when the budget has no
    room for the clips of this video, MachineError when the disk has none for those that are missing.
    """
    temporary = temporary_root()
    plan = video.prepared.plan
    if choice.spool == TEMPORARY:
        SpoolStore(temporary).check_disk(plan.segment.clips.stop * clip_bytes(plan))
        return Spool.temporary(temporary, video.chain), SpoolNotes()
    spools, clips = store(), range(plan.segment.clips.stop)
    spools.remove_left_locks()
    facts = {**about(plan), **({VOICE: LONG} if video.by_sound else {})}
    spool = spools.open(video.key(numerics), facts, choice.bytes_allowed, video.chain)
    finished = finished_in(spool, clips)
    needed = (len(clips) - finished) * clip_file_bytes(plan)
    elsewhere = {other: finished_clips(video, other) for other in other_settings(numerics)}
    warnings = made_otherwise(numerics, elsewhere, finished, len(clips))
    removed: list[SpoolInfo] = []
    if needed and choice.bytes_allowed:
        of_states = max(0, states.bytes_of(plan) - sum(spool.state_sizes().values()))
        removed = make_room(spools, spool, plan, choice.bytes_allowed, needed + of_states)
    spools.check_disk(needed)
    return spool, SpoolNotes(warnings, notes_on(len(clips), finished, removed))


def make_room(spools: SpoolStore, spool: Spool, plan: ClipPlan, budget: int, needed: int) -> list[SpoolInfo]:
    """Older spools that were removed, so that `needed` bytes more are within the budget. Raises InputError when the
    clips of this video alone are more."""
    whole = plan.segment.clips.stop * clip_file_bytes(plan)
    if whole > budget:
        raise InputError(
            f"spool_budget is {fine_size(budget)}, and the clips of this video take {fine_size(whole)}. Raise "
            f"spool_budget (0: no limit), lower num_clip, or set spool to '{TEMPORARY}'."
        )
    return spools.make_room(spool.folder.name, needed, budget)


def finished_clips(video: NamedVideo, numerics: Numerics) -> int:
    """How many of the clips that are wanted are finished when they are computed like this."""
    spool = store().open(video.key(numerics), {}, chain=video.chain)
    return finished_in(spool, range(video.prepared.plan.segment.clips.stop))


def spool_of_take(whole: Spool, video: NamedVideo, take: ClipPlan, settings: tuple[Numerics, SpoolChoice]) -> Spool:
    """The spool of a take of a video whose own is `whole`: another branch in its folder, or, where the take begins with
    the video, in one of its own."""
    numerics, choice = settings
    taken = video.with_plan(take)
    if taken.key(numerics) == video.key(numerics):
        return whole.with_chain(taken.chain)
    if choice.spool == TEMPORARY:
        return Spool.temporary(temporary_root(), taken.chain)
    spool = store().open(taken.key(numerics), about(take), choice.bytes_allowed, taken.chain)
    spool.colours = whole.colours
    return spool


def finished_in(spool: Spool, clips: range) -> int:
    return sum(map(spool.has_clip, clips))


def other_settings(numerics: Numerics) -> list[Numerics]:
    """The same model with the other values of DiT Sampler's widgets that are part of a video's key; `compile` alone is
    looked for, not together with others."""
    kept, kernels = ("model", "fp8"), (EXACT, SAGE)
    others = [replace(numerics, kv_dtype=kv_dtype, attention=kernel) for kv_dtype in kept for kernel in kernels]
    others.append(replace(numerics, compiled=not numerics.compiled))
    return [other for other in others if other != numerics]


def made_otherwise(numerics: Numerics, elsewhere: Mapping[Numerics, int], finished: int, clips: int) -> tuple[str, ...]:
    """Says that more clips of this video are finished than are used now, because a setting is another one."""
    best = max(elsewhere, key=lambda other: elsewhere[other])
    if elsewhere[best] <= finished:
        return ()
    settings = []
    if best.kv_dtype != numerics.kv_dtype:
        settings.append(f"kv_dtype {best.kv_dtype}")
    if best.attention != numerics.attention:
        settings.append(f"attention {'sage' if best.attention == SAGE else 'sdpa'}")
    if best.compiled != numerics.compiled:
        settings.append("compile on" if best.compiled else "compile off")
    chosen = " and ".join(settings)
    return (
        f"{elsewhere[best]} of {clips} clips are finished with {chosen} and are not used: kv_dtype, sage attention and "
        f"compile are part of a video's key, with others its clips are sampled anew. Choose {chosen} to go on with "
        "them.",
    )


def notes_on(clips: int, finished: int, removed: Sequence[SpoolInfo]) -> tuple[str, ...]:
    """How much is finished already, and what was removed to make room."""
    notes = [f"{finished} of {clips} clips are finished already and replayed"] if finished else []
    if removed:
        size = fine_size(sum(info.size for info in removed))
        notes.append(f"Removed {len(removed)} older spools ({size}), see spool_budget")
    return tuple(notes)


def about(plan: ClipPlan) -> dict[str, object]:
    """What a list of spools shows of this one."""
    return {"size": f"{plan.width}x{plan.height}", "fps": f"{float(plan.fps):g}", "seed": plan.seed}
