"""Where sampling goes on: an exact state on the disk if there is one, else one in fp8, else a warm-up; in words too."""

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from ..duration import LATENT_FRAMES_PER_BLOCK
from ..latent_space import CHANNELS
from ..sampling.plan import ClipPlan
from ..sampling.run import RunStart
from ..texts import fine_size
from .spool import InexactStart, Spool, same
from .states import StateSettings, StateSizes, StateType

How = Literal["exact", "fp8", "warm-up"]


@dataclass(frozen=True)
class Resumption:
    """`parts`: blocks of the start's clip that are finished already. `how`: "exact" when the clip becomes what it was
    or would have been; after a state in fp8 or a warm-up it does not, and later clips do not fit any more."""

    start: RunStart
    parts: list[Tensor] = field(default_factory=list)
    how: How = "exact"

    @property
    def exact(self) -> bool:
        return self.how == "exact"


def clip_shape(plan: ClipPlan) -> tuple[int, int, int, int]:
    """Latents of one clip."""
    return CHANNELS, plan.blocks_per_clip * LATENT_FRAMES_PER_BLOCK, *plan.latent_size


def resumption(plan: ClipPlan, spool: Spool, clip: int) -> Resumption:
    """How to make a clip that is not in the spool; all clips before it are.

    Exact is: from the newest exact state at or before the clip, from the beginning, or as it was made before, from the
    last beginning anew. If that is further back than both one ring length and the number of finished clips after this
    one, which would have to be made anew otherwise, the run begins anew: from a state in fp8 of this clip, or after a
    warm-up of one ring length.
    """
    first = clip * plan.blocks_per_clip
    later = sum(number > clip for number in spool.clips()) * plan.blocks_per_clip
    anew = spool.last_inexact_start(first + plan.blocks_per_clip - 1)
    furthest = max(anew.block, first - max(2 * plan.window_blocks, later))
    states = [block for block in reversed(spool.states()) if furthest <= block and plan.clip_of(block) <= clip]
    for block in states:
        if _went_on_from(spool, anew, block):
            found = _from_state(plan, spool, block)
            if found is not None:
                return found
    if anew.block >= furthest and not anew.from_fp8:
        return Resumption(_without_state(plan, spool, anew.block) or RunStart(), how="exact")
    for block in states:
        # From an earlier one, clips that are finished would have to be made anew as well.
        if block >= first:
            found = _from_state(plan, spool, block)
            if found is not None:
                return replace(found, how="fp8")
    return Resumption(_without_state(plan, spool, first) or RunStart(), how="warm-up")


def _went_on_from(spool: Spool, anew: InexactStart, block: int) -> bool:
    """Whether the video, last begun anew at `anew`, went on from this state or would have: from exact ones after that,
    and from the one in fp8 that it was begun with."""
    if block == anew.block:
        return anew.from_fp8 and spool.is_fp8(block)
    return not spool.is_fp8(block)


def _from_state(plan: ClipPlan, spool: Spool, block: int) -> Resumption | None:
    """None when the state, or a clip it needs, turns out to be damaged."""
    state = spool.read_state(block)
    if state is None:
        return None
    finished = block % plan.blocks_per_clip
    if finished:
        channels, _, *size = clip_shape(plan)
        if not same(state.latents, (channels, finished * LATENT_FRAMES_PER_BLOCK, *size)):
            spool.remove_state(block)
            return None
    parts = [] if state.latents is None else list(state.latents.split(LATENT_FRAMES_PER_BLOCK, dim=1))
    frames = _first_frames(plan, spool, block, block, parts)
    return None if frames is None else Resumption(RunStart(block, frames, state.rings), parts)


def _without_state(plan: ClipPlan, spool: Spool, block: int) -> RunStart | None:
    """The beginning, or a warm-up; None when a clip that the warm-up needs is damaged."""
    if not block:
        return RunStart()
    frames = _first_frames(plan, spool, max(0, block - 2 * plan.window_blocks), block, [])
    return None if frames is None else RunStart(block, frames)


def _first_frames(
    plan: ClipPlan, spool: Spool, needed_from: int, before: int, parts: list[Tensor]
) -> dict[int, Tensor] | None:
    """First latent frames of the blocks before `before` that sinks are made from; None when one is not readable.

    Such a block's clip is in the spool or, unfinished, in `parts`.
    """
    frames: dict[int, Tensor] = {}
    for source in sorted(s for s in plan.sink_frames(needed_from) if s < before):
        clip, offset = divmod(source, plan.blocks_per_clip)
        if parts and clip == plan.clip_of(before):
            latents = parts[offset]
        else:
            whole = spool.read_clip(clip, clip_shape(plan))
            if whole is None:
                return None
            latents = whole[:, offset * LATENT_FRAMES_PER_BLOCK :]
        frames[source] = latents[:, :1].clone()
    return frames


@dataclass(frozen=True)
class StateChoice:
    """What `StateSettings` were chosen from: the sizes, what the user asked for, and the setting that the budget comes
    from."""

    sizes: StateSizes
    asked: StateType
    limit: Literal["state_budget", "spool_budget"] = "state_budget"


def how_it_goes_on(plan: ClipPlan, settings: StateSettings, choice: StateChoice, batched: bool) -> tuple[str, bool]:
    """What a user is told before a run: how its later segments, or the video after a stop, will go on; and whether that
    is bit for bit.

    `batched`: whether the blocks of all steps run as one batch, which other blocks share after a break.
    """
    exact, in_fp8, limit = choice.sizes.exact, choice.sizes.in_fp8, choice.limit
    several = len(plan.segment.clips) < plan.num_clip
    subject = "The segments of this video go on" if several else "After a stop this video goes on"
    if not settings.allowed:
        smallest = "" if in_fp8 >= exact or choice.asked == "model" else f", {fine_size(in_fp8)} in fp8"
        return (
            f"{subject} after a warm-up: almost, not bit for bit. No state is kept, as one takes "
            f"{fine_size(exact)}{smallest} and {_of(limit)} {fine_size(settings.budget)}; raise it to keep one"
        ), False
    if settings.fp8:
        why = "state_dtype" if choice.asked == "fp8" else limit
        return (
            f"{subject} from states in fp8 of {fine_size(in_fp8)}: almost, not bit for bit. Exact ones would take "
            f"{fine_size(exact)} ({why})"
        ), False
    how = "equal up to rounding, as schedule is batched" if batched else "bit for bit"
    return f"{subject} {how}, from exact states of {fine_size(exact)}", not batched


def _of(limit: str) -> str:
    return "state_budget is" if limit == "state_budget" else "beside the clips spool_budget leaves"
