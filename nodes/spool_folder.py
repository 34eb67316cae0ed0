"""Where finished clips are kept: ComfyUI's user folder, so that they survive a restart, or its temporary one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths

from ..liveavatar_runtime.planning.memory import Placement, ring_bytes
from ..liveavatar_runtime.sampling.fingerprint import Fingerprint, video_key
from ..liveavatar_runtime.sampling.latent_stream import clip_bytes
from ..liveavatar_runtime.sampling.plan import ClipPlan
from ..liveavatar_runtime.sampling.prepare import Prepared
from ..liveavatar_runtime.sampling.resume import how_it_goes_on
from ..liveavatar_runtime.sampling.spool import Spool
from ..liveavatar_runtime.sampling.spool_store import SpoolStore, gib
from ..liveavatar_runtime.sampling.states import StateSettings, StateType
from . import comfy_bridge as bridge
from .model_fingerprint import fingerprint_of
from .notes import Notes
from .types import AvatarModel

KEEP, TEMPORARY = "keep", "until ComfyUI ends"
SPOOL_CHOICES = (KEEP, TEMPORARY)
FOLDER = "liveavatar_spools"
GIB = 2**30


def store() -> SpoolStore:
    """The spools that survive a restart, in a folder that ComfyUI's HTTP interface does not serve."""
    return SpoolStore(Path(folder_paths.get_user_directory()) / f"__{FOLDER}")


def state_settings(
    model: AvatarModel, plan: ClipPlan, placement: Placement, choice: StateType, budget_gib: float, notes: Notes
) -> StateSettings:
    """How states of this plan are kept. Notes say how the video will go on; first of all where segments do not bit for
    bit."""
    exact, in_fp8 = (
        ring_bytes(model.config, plan, model.dtype, kept) for kept in (placement, replace(placement, kv_dtype="fp8"))
    )
    settings = StateSettings.choose(exact, in_fp8, int(budget_gib * GIB), choice)
    text, bit_for_bit = how_it_goes_on(plan, settings, exact, in_fp8, choice, placement.batched)
    several = len(plan.segment.clips) < plan.num_clip
    (notes.warn if several and not bit_for_bit else notes.tell)(text)
    return settings


def open_spool(
    model: AvatarModel, prepared: Prepared, audio: Any, numerics: tuple[str, ...], choice: str, budget_gib: float
) -> tuple[Spool, list[str]]:
    """The spool of a video, and notes for the user. `numerics`: settings that change the latents a little.

    Raises MachineError when the disk has no room for the clips that are missing.
    """
    fingerprint = fingerprint_of(model)
    temporary = bridge.temporary_root()
    plan = prepared.plan
    if choice == TEMPORARY or fingerprint is None:
        SpoolStore(temporary).check_disk(plan.segment.clips.stop * clip_bytes(plan))
        return Spool.temporary(temporary), []
    known = Fingerprint().add("model", fingerprint).add("numerics", list(numerics)).hexdigest()
    key = video_key(known, prepared.conditions, audio.fingerprint, plan)
    spools = store()
    spool = spools.open(key, about(plan))
    missing = sum(not spool.has_clip(clip) for clip in range(plan.segment.clips.stop))
    needed = missing * clip_bytes(plan)
    gone = spools.make_room(key, needed, int(budget_gib * GIB)) if missing and budget_gib else []
    spools.check_disk(needed)
    return spool, notes_on(plan, missing, gone)


def notes_on(plan: ClipPlan, missing: int, gone: list[Any]) -> list[str]:
    """How much is finished already, and what was removed to make room."""
    finished = plan.segment.clips.stop - missing
    notes = [f"{finished} of {plan.segment.clips.stop} clips are finished already and replayed"] if finished else []
    if gone:
        notes.append(f"Removed {len(gone)} older spools ({gib(sum(info.size for info in gone))}), see spool_budget")
    return notes


def about(plan: ClipPlan) -> dict[str, Any]:
    """What a list of spools shows of this one."""
    return {"size": f"{plan.width}x{plan.height}", "fps": f"{float(plan.fps):g}", "seed": plan.seed}
