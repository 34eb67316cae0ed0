"""Where sampling goes on: an exact state on the disk if there is one, else a warm-up of one ring length."""

from dataclasses import dataclass, field

from torch import Tensor

from ..planning.duration import LATENT_FRAMES_PER_BLOCK
from .block_loop import RunStart
from .plan import LATENT_CHANNELS, ClipPlan
from .spool import Spool, same

SMALL_STATE = 64 * 2**20
"""States up to this size are kept after every clip: it costs less than a second and saves every clip from a crash."""

SPARE_CLIPS = 16
"""Small states of so many last clips are kept, and of every clip that this divides."""


@dataclass(frozen=True)
class StateSettings:
    """`size`: bytes of one state, known from the plan; `budget`: bytes that the states of a video may take."""

    size: int = 0
    budget: int = 8 * 2**30

    @property
    def allowed(self) -> bool:
        return self.size <= self.budget

    @property
    def at_every_clip(self) -> bool:
        return self.size <= min(self.budget, SMALL_STATE)

    def wanted_after(self, plan: ClipPlan, block: int) -> bool:
        """Whether the state after a block of `plan` (the whole one, with its segments) is kept."""
        if not self.allowed or (block + 1) % plan.blocks_per_clip:
            return False
        return self.at_every_clip or (ends_segment(plan, block + 1) and block + 1 < plan.num_blocks)

    def worth_keeping(self, plan: ClipPlan, next_block: int, newest: int) -> bool:
        """Whether the state before a block is still of use once there is a newer one: to repair a damaged clip."""
        clips, rest = divmod(next_block, plan.blocks_per_clip)
        recent = newest - next_block <= SPARE_CLIPS * plan.blocks_per_clip
        spare = self.at_every_clip and not rest and (recent or clips % SPARE_CLIPS == 0)
        return spare or ends_segment(plan, next_block)


def ends_segment(plan: ClipPlan, next_block: int) -> bool:
    """Whether a segment of the plan begins with this block."""
    return bool(plan.segment_clips) and next_block % (plan.segment_clips * plan.blocks_per_clip) == 0


@dataclass(frozen=True)
class Resumption:
    """`parts`: blocks of the start's clip that are finished already. `exact`: the clip becomes what it was or would
    have been; otherwise later clips do not fit any more."""

    start: RunStart
    parts: list[Tensor] = field(default_factory=list)
    exact: bool = True


def clip_shape(plan: ClipPlan) -> tuple[int, int, int, int]:
    """Latents of one clip."""
    return LATENT_CHANNELS, plan.blocks_per_clip * LATENT_FRAMES_PER_BLOCK, *plan.latent_size


def resumption(plan: ClipPlan, spool: Spool, clip: int) -> Resumption:
    """How to make a clip that is not in the spool; all clips before it are.

    Exact is: from the newest state at or before the clip, from the beginning, or as it was made before, from the last
    warm-up. If that is further back than both one ring length and the number of finished clips after this one, which
    would have to be made anew otherwise, the run warms up.
    """
    first = clip * plan.blocks_per_clip
    later = sum(number > clip for number in spool.clips()) * plan.blocks_per_clip
    earliest = max((number for number in spool.warm_ups() if number <= clip), default=0) * plan.blocks_per_clip
    nearest = max(0, first - max(2 * plan.window_blocks, later))
    for block in reversed(spool.states()):
        if max(earliest, nearest) <= block and plan.clip_of(block) <= clip:
            found = _from_state(plan, spool, block)
            if found is not None:
                return found
    exact = earliest >= nearest
    start = _without_state(plan, spool, earliest if exact else first)
    return Resumption(start or RunStart(), exact=exact)


def _from_state(plan: ClipPlan, spool: Spool, block: int) -> Resumption | None:
    """None when the state, or a clip it needs, turns out to be damaged."""
    state = spool.read_state(block)
    if state is None:
        return None
    finished = block % plan.blocks_per_clip
    if finished:
        channels, _, *size = clip_shape(plan)
        if not same(state.latents, (channels, finished * LATENT_FRAMES_PER_BLOCK, *size)):
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

    Such a block is the first one of its clip, which is in the spool or, unfinished, in `parts`.
    """
    frames: dict[int, Tensor] = {}
    for source in sorted(s for s in plan.sink_sources(needed_from) if s < before):
        unfinished = bool(parts) and plan.clip_of(source) == plan.clip_of(before)
        latents = parts[0] if unfinished else spool.read_clip(plan.clip_of(source))
        if latents is None:
            return None
        frames[source] = latents[:, :1].clone()
    return frames
