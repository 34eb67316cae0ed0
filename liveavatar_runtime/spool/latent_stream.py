"""LatentStream: the lazy, re-iterable result of sampling, block by block, kept on the disk clip by clip."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..duration import LATENT_FRAMES_PER_BLOCK
from ..errors import MachineError, handled, replaced
from ..sampling.plan import ClipPlan, Segment
from ..sampling.run import KeepRings, LatentBlock, RunStart, SamplingRun
from ..texts import clips_text
from .checked_files import NotFinite, check_finite, written_bytes
from .resume import Resumption, clip_shape, resumption
from .spool import LATENTS, InexactStart, NoRoom, Spool
from .state_keeper import StateKeeper
from .states import State, StateSettings

WAIT_SECONDS = 0.2
NEWS_KEPT = 20
"""Texts that are remembered; a broken disk could make one a block."""
NOT_NUMBERS = (
    "The model gave values that are not numbers (NaN or infinite) in clip {clip}; nothing of this clip is kept. {cause}"
)
UNKNOWN_CAUSE = (
    "Its weights hold such values, a LoRA is too strong, or the number format is too small: set precision bf16 or fp32 "
    "and lower the LoRA strengths in Load Avatar Model, or get the weight file again."
)


StartRun = Callable[[ClipPlan, RunStart, KeepRings], SamplingRun]
"""Begin sampling a plan at a start, keeping the rings where told: `Executor.run` with its conditions."""


@dataclass
class ClipInWork:
    """The clip that a run is making: its finished blocks, of which the first `replayed` came with the state that the
    run began from, and what could not be written of it, if anything."""

    clip: int
    parts: list[Tensor]
    rings: dict[str, Tensor] | None = None
    replayed: int = 0


@dataclass(frozen=True)
class Storage:
    """Where finished clips are kept (a temporary folder without a spool), and which states."""

    spool: Spool | None = None
    states: StateSettings = StateSettings()


@dataclass(frozen=True)
class StreamHooks:
    """What the caller does meanwhile. say(text): tell the user what happens. stop_if_interrupted(): called while
    waiting for another prompt, may raise. cause_of_nan(): where values that are not numbers come from and what to do.
    """

    say: Callable[[str], None] = lambda text: None
    stop_if_interrupted: Callable[[], None] = lambda: None
    cause_of_nan: Callable[[], str] = lambda: UNKNOWN_CAUSE


TEMPORARY, NO_HOOKS = Storage(), StreamHooks()


class LatentStream:
    """Blocks of a plan's segment; finished clips come from the spool, the rest is sampled when it is asked for.

    `history` [16, n, h, w]: latents of the still picture before the video, in the model's space. `news` lists what was
    said that the user would not expect, `facts` the rest. Nothing grows with the number of clips. An error, an
    interruption or a crash loses no finished clip, and none is sampled twice where the state after it could be kept.
    Sampling raises MachineError when the model gives values that are not numbers; of that clip nothing is kept.
    """

    def __init__(
        self,
        plan: ClipPlan,
        history: Tensor,
        start_run: StartRun,
        storage: Storage = TEMPORARY,
        hooks: StreamHooks = NO_HOOKS,
    ) -> None:
        self.plan, self.history, self.spool = plan, history, storage.spool or Spool.temporary()
        self._start_run, self._hooks = start_run, hooks
        self._states = StateKeeper(plan, self.spool, storage.states)
        self.news: list[str] = []
        self.facts: list[str] = []
        self.writing_seconds = 0.0
        """Of finished clips and states."""
        self._shape = clip_shape(plan)
        self._run: SamplingRun | None = None
        self._work: ClipInWork | None = None
        self._unwritten: ClipInWork | None = None
        self._read: tuple[int, Tensor] | None = None
        self._damaged: set[int] = set()
        self._told_no_room = False
        self._readers = 0
        self._target = 0

    @property
    def segment(self) -> Segment:
        """The clips, blocks and frames of the video that this stream gives."""
        return self.plan.segment

    def __len__(self) -> int:
        """Number of blocks, finished or not."""
        return len(self.segment.blocks)

    @property
    def finished_clips(self) -> int:
        """Number of this stream's clips that need no sampling any more."""
        return sum(self.spool.has_clip(clip) for clip in self.segment.clips)

    def __iter__(self) -> Generator[LatentBlock, None, None]:
        return self._blocks(self.segment.blocks)

    def priming(self, past_latents: int) -> Tensor:
        """What a streaming decoder is given before this stream's first block: [16, n, h, w].

        For the start of the video that is the history; for a later segment the `past_latents` latents before it, with
        the history in front if they are fewer. Clips before the segment that are missing are sampled first.
        """
        first = self.segment.blocks.start
        count = min(first, -(-past_latents // LATENT_FRAMES_PER_BLOCK))
        # The run stays: the segment itself is read next.
        before = [block.latents for block in self._blocks(range(first - count, first), keep_run=True)]
        return torch.cat([self.history, *before] if count == first else before, dim=1)

    def close(self) -> None:
        """Let go of the caches and of the lock; an iteration that ends does it too."""
        self._stop()

    def _tell(self, text: str, expected: bool = False) -> None:
        """Tell the user at once, and remember it in `news`, or `facts` if expected, for whoever reads the stream."""
        self._hooks.say(text)
        told = self.facts if expected else self.news
        if text not in told and len(told) < NEWS_KEPT:
            told.append(text)

    def _blocks(self, numbers: range, keep_run: bool = False) -> Generator[LatentBlock, None, None]:
        self._readers += 1
        whole = False
        try:
            for number in numbers:
                yield self._block(number)
            whole = True
        finally:
            self._readers -= 1
            # Sampling holds the caches, most of a card's memory: let go of them however the iteration ends.
            if not self._readers and not (whole and keep_run):
                self._stop()

    def _block(self, number: int) -> LatentBlock:
        """A block that is in work, on the disk, or sampled now."""
        clip, offset = divmod(number, self.plan.blocks_per_clip)
        while True:
            if self._work is not None and self._work.clip == clip and offset < len(self._work.parts):
                replayed = offset < self._work.replayed
                return LatentBlock(number, clip, self._work.parts[offset], replayed=replayed)
            latents = self._stored(clip)
            if latents is not None:
                part = slice(offset * LATENT_FRAMES_PER_BLOCK, (offset + 1) * LATENT_FRAMES_PER_BLOCK)
                return LatentBlock(number, clip, latents[:, part].clone(), replayed=True)
            self._hooks.stop_if_interrupted()
            self._sample_towards(clip)

    def _stored(self, clip: int) -> Tensor | None:
        """Latents of a finished clip; None when it is to be sampled."""
        if self._read is None or self._read[0] != clip:
            self._read = None
            existed = self.spool.has_clip(clip)
            latents = self.spool.read_clip(clip, self._shape)
            if latents is None:
                if existed:
                    self._note_damage(clip)
                return None
            self._read = clip, latents
            self._damaged.discard(clip)
            self.spool.touch()
        return self._read[1]

    def _note_damage(self, clip: int) -> None:
        """Say that a clip was damaged and is made again; raises MachineError when that was done before, in vain."""
        if clip in self._damaged:
            self._damaged.remove(clip)
            raise MachineError(
                f"clip {clip + 1} was made again, because its file in {self.spool.folder} was damaged, and cannot be "
                "read as it was written now either: the disk or the memory of this computer fails, or another program "
                "changes the files there. Check them, or keep ComfyUI's user folder on another disk (--user-directory)."
            )
        self._damaged.add(clip)
        self._tell(f"Clip {clip + 1} was damaged on the disk and is made again")

    def _sample_towards(self, clip: int) -> None:
        """One more block on the way to a clip, or the beginning of that way."""
        if self._run is None or not self._is_on_the_way(clip):
            self._stop()
            if self._lock_or_find(clip):
                self._write_unwritten()
                if not self.spool.has_clip(clip):
                    self._begin(clip)
        else:
            self._sample_block(self._run)

    def _is_on_the_way(self, clip: int) -> bool:
        """Whether the run comes to a clip without making others again that it need not make."""
        work = self._work
        if work is None or work.clip > clip or self._ends_before_inexact_start(work):
            return False
        if work.clip <= self._target and not self.spool.has_clip(self._target):
            return True
        return clip in (work.clip, work.clip + 1) or not self.spool.has_clip(work.clip + 1)

    def _ends_before_inexact_start(self, work: ClipInWork) -> bool:
        """Whether the next clip was begun anew: made from this run it would not fit the clips after it."""
        blocks = self.plan.blocks_per_clip
        next_block = (work.clip + 1) * blocks
        whole = len(work.parts) == blocks
        return whole and self.spool.last_inexact_start(next_block + blocks - 1).block >= next_block

    def _lock_or_find(self, clip: int) -> bool:
        """Wait for the right to sample; False when the clip has been made by another prompt meanwhile."""
        waiting = False
        while not self.spool.try_lock():
            if self.spool.has_clip(clip):
                return False
            if not waiting:
                waiting = True
                self._tell(f"Another prompt is making this video: waiting for its clip {clip + 1}", expected=True)
            self._hooks.stop_if_interrupted()
            time.sleep(WAIT_SECONDS)
        return not self.spool.has_clip(clip)

    def _first_missing(self, clip: int) -> int:
        return next((number for number in range(clip) if not self.spool.has_clip(number)), clip)

    def _begin(self, clip: int) -> None:
        """Start a run that makes the first clip that is missing, at the latest `clip`."""
        plan = self.plan
        clip = self._first_missing(clip)
        found = resumption(plan, self.spool, clip)
        # It reads clips too, of which sinks are made: one that was damaged has to be made before.
        while (damaged := self._first_missing(clip)) < clip:
            self._note_damage(damaged)
            clip, found = damaged, resumption(plan, self.spool, damaged)
        if not found.exact:
            self.spool.note_inexact_start(
                InexactStart(found.start.first_block, found.how == "fp8"), plan.blocks_per_clip
            )
        first = self.segment.clips.start
        if clip < first:
            missing, one = clips_text(range(clip, first)), first - clip == 1
            made = "is missing and is made first" if one else "are missing and are made first"
            self._tell(f"{missing.capitalize()}, before this segment, {made}")
        elif clip or found.parts:
            self._tell(resume_note(plan, clip, found), expected=found.exact)

        def keep_rings(block: int) -> bool:
            return self._states.wanted_after(block)

        self._target = clip
        parts = list(found.parts)
        self._work = ClipInWork(plan.clip_of(found.start.first_block), parts, replayed=len(parts))
        self._run = self._start_run(plan.until(self.segment.clips.stop), found.start, keep_rings)

    def _sample_block(self, run: SamplingRun) -> None:
        block = next(run)

        def given_up(error: NotFinite) -> MachineError:
            # Neither these nor the caches that hold their traces may be gone on with.
            self._work = self._unwritten = None
            return MachineError(self._not_numbers(block.clip))

        with replaced(NotFinite, given_up):
            check_finite([block.latents])
            self._take(block)

    def _take(self, block: LatentBlock) -> None:
        """Add a block to the clip in work, which is written when it is whole."""
        work = self._work
        if work is None or work.clip != block.clip:
            work = self._work = ClipInWork(block.clip, [])
        work.parts.append(block.latents)
        if len(work.parts) == self.plan.blocks_per_clip:
            work.rings = block.rings
            self._unwritten = work
            self._write_unwritten()

    def _not_numbers(self, clip: int) -> str:
        return NOT_NUMBERS.format(clip=clip + 1, cause=self._hooks.cause_of_nan())

    def _write_unwritten(self) -> None:
        """Write a finished clip and the state after it. What a full disk refused is written the next time."""
        work, begun = self._unwritten, time.perf_counter()
        if work is None:
            return
        next_block = (work.clip + 1) * self.plan.blocks_per_clip
        needed = (self.segment.clips.stop - work.clip) * clip_bytes(self.plan)
        # First the state: a clip without it would have to be sampled again to go on exactly.
        if work.rings is not None:
            self._write_state(State(next_block, work.rings), needed + self._states.settings.size)
        written = self.spool.has_clip(work.clip)
        if not written and self._states.write_clip(work.clip, torch.cat(work.parts, dim=1), needed):
            self._tell_no_room()
        if self.spool.removed_of_others:
            self._tell(
                "Clips of other takes of this video were removed to make room, see spool_budget; going back to them "
                "samples them again"
            )
        work.rings = self._unwritten = None
        self._states.forget_surplus()
        self.writing_seconds += time.perf_counter() - begun

    def _write_state(self, state: State, needed: int = 0) -> None:
        """Without room for it the video goes on all the same; only a stop costs a warm-up then."""
        with handled(NoRoom, lambda error: self._tell_no_room()):
            self._states.write_state(state, needed)

    def _tell_no_room(self) -> None:
        if not self._told_no_room:
            self._told_no_room = True
            self._tell(
                f"There is no room for states to go on from in {self.spool.folder.parent} (the disk is full, or "
                "spool_budget is used up): finished clips are kept, and after a stop this video goes on almost, not "
                "bit for bit, as it would have"
            )

    def _stop(self) -> None:
        """End the run, keeping its state where it was left; let go of the caches and of the lock."""
        run, work = self._run, self._work
        self._run = self._work = self._read = None
        if run is not None:
            if work is not None and self._unwritten is None:
                self._keep_interrupted(run, work)
            run.close()
        if self.spool.locked:
            self.spool.unlock()

    def _keep_interrupted(self, run: SamplingRun, work: ClipInWork) -> None:
        next_block = work.clip * self.plan.blocks_per_clip + len(work.parts)
        at_end = next_block >= self.segment.blocks.stop
        useless = at_end or self.spool.has_clip(self.plan.clip_of(next_block)) or next_block in self.spool.states()
        if useless or not self._states.settings.allowed:
            return
        rings = run.rings()
        if rings is None:
            return
        whole = len(work.parts) in (0, self.plan.blocks_per_clip)
        state = State(next_block, rings, None if whole else torch.cat(work.parts, dim=1))

        def not_kept(error: NotFinite | MachineError) -> None:
            if isinstance(error, NotFinite):
                self._tell(f"The state of sampling is not kept: {self._not_numbers(work.clip)}")
            else:
                self._tell(f"The state of sampling could not be kept: {error}")

        with handled((NotFinite, MachineError), not_kept):
            self._write_state(state)


def clip_bytes(plan: ClipPlan) -> int:
    """Size of one clip's latents on the disk."""
    channels, frames, height, width = clip_shape(plan)
    return 4 * channels * frames * height * width


def clip_file_bytes(plan: ClipPlan) -> int:
    """Size of the file of one clip."""
    return written_bytes({LATENTS: torch.empty(clip_shape(plan), device="meta")})


def resume_note(plan: ClipPlan, clip: int, found: Resumption) -> str:
    """How sampling goes on, for the user."""
    text = f"{clip} of {plan.num_clip} clips are finished: going on with clip {clip + 1}"
    if found.how == "fp8":
        text += ", from a state that was kept in fp8 (state_dtype): almost, not exactly, as it would have gone on"
    elif found.how == "warm-up":
        text += (
            ", after a warm-up because no state was kept (state_budget): almost, not exactly, as it would have gone on"
        )
    elif found.start.first_block < clip * plan.blocks_per_clip:
        text += f", by way of clip {plan.clip_of(found.start.first_block) + 1}, so that it becomes what it was"
    return text
