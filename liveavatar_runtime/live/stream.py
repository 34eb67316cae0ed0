"""LiveLatentStream: blocks of a video without an end, sampled as its voice comes.

None of its clips is kept, since no voice comes twice. What it goes on from after a stop is one file (`state.py`).
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from ..duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from ..errors import MachineError, handled, replaced
from ..sampling.conditions import Conditions, FrameFeatures
from ..sampling.plan import ClipPlan
from ..sampling.run import KeepRings, LatentBlock, RunStart, SamplingRun
from ..spool.checked_files import NotFinite, check_finite
from ..spool.latent_stream import NOT_NUMBERS, UNKNOWN_CAUSE
from .directed import Directed
from .state import LiveState, StateFile

CLIPS_A_RUN = 600
"""After so many clips a run hands over to the next one, which keeps what a run holds by block small."""
PAST_BLOCKS = 8
"""Of so many last blocks the latents are kept, for a decoder that goes on."""
NEWS_KEPT = 20

StartRun = Callable[[ClipPlan, Conditions, RunStart, KeepRings], SamplingRun]
"""Begin sampling a part of the plan with these conditions at a start."""


@dataclass(frozen=True)
class SamplingHooks:
    """What the caller decides meanwhile, in the thread that asks for blocks but for asked().

    stopped(): whether no more blocks are wanted. asked(block): whether something is to be changed before it, from any
    thread. direct(directed, block): what is sampled from this block on. say(text): tell the user. cause_of_nan(): as in
    `StreamHooks`.
    """

    stopped: Callable[[], bool] = lambda: False
    asked: Callable[[int], bool] = lambda block: False
    direct: Callable[[Directed, int], Directed] = lambda directed, block: directed
    say: Callable[[str], None] = lambda text: None
    cause_of_nan: Callable[[], str] = lambda: UNKNOWN_CAUSE


@dataclass(frozen=True)
class Keeping:
    """Where the state is kept (None: nowhere), and after how many clips it is written again, 0: at the end alone."""

    file: StateFile | None = None
    every_clips: int = 0


@dataclass(frozen=True)
class _FromBlock:
    """The voice of a session, whose first frame is that of block `first`."""

    voice: FrameFeatures
    first: int

    def frames(self, first: int, count: int) -> Tensor:
        return self.voice.frames(first - self.first * FRAMES_PER_BLOCK, count)


@dataclass(eq=False)
class _End:
    """Where a run ends: with its `last` block, or with one before which something was asked for, as soon as its voice
    comes: no stage of a pipeline has begun it then. `first`: of the run; a warm-up comes before."""

    first: int
    last: int
    asked: Callable[[int], bool]
    sooner: int | None = None
    newest: int = -1

    def heard(self, block: int) -> None:
        if block <= self.newest:
            return
        self.newest = block
        if self.sooner is None and block >= self.first and self.asked(block + 1):
            self.sooner = block

    def __call__(self, block: int) -> bool:
        return block in (self.last, self.sooner)


@dataclass(frozen=True)
class _Watched:
    """A voice of which `end` learns for which block it is wanted."""

    voice: FrameFeatures
    end: _End

    def frames(self, first: int, count: int) -> Tensor:
        found = self.voice.frames(first, count)
        self.end.heard(first // FRAMES_PER_BLOCK)
        return found


class LiveLatentStream:
    """Blocks until `hooks.stopped`, or the end of a plan that has one; of an endless one numbers go on where an earlier
    session of the same video stopped (`first_block`).

    `history` [16, n, h, w]: latents of the still picture, in the model's space. Iterated once. `news` and `facts` as in
    `LatentStream`. The state is written when the iteration ends, however it does, but for values that are no numbers.
    """

    def __init__(
        self,
        directed: Directed,
        history: Tensor,
        start_run: StartRun,
        keeping: Keeping = Keeping(),
        hooks: SamplingHooks = SamplingHooks(),
    ) -> None:
        self.plan, self.history = directed.plan, history
        self.news: list[str] = []
        self.facts: list[str] = []
        self.writing_seconds = 0.0
        """Of states."""
        self._start_run, self._keeping, self._hooks = start_run, keeping, hooks
        found = self._found()
        self._start = RunStart() if found is None else RunStart(found.next_block, found.frames, found.rings)
        self.first_block = self._start.first_block
        """Of this session."""
        audio = _FromBlock(directed.conditions.audio, self.first_block)
        self._directed = Directed(directed.plan, replace(directed.conditions, audio=audio))
        self._frames = dict(self._start.first_frames)
        self._past = deque(
            [] if found is None or found.past is None else found.past.split(LATENT_FRAMES_PER_BLOCK, dim=1),
            maxlen=PAST_BLOCKS,
        )
        self._next, self._rings = self.first_block, self._start.rings

    def __iter__(self) -> Generator[LatentBlock, None, None]:
        return self._blocks()

    def priming(self, past_latents: int) -> Tensor:
        """What a streaming decoder is given before the first block: [16, n, h, w]."""
        if not self._past:
            return self.history
        count = -(-past_latents // LATENT_FRAMES_PER_BLOCK)
        return torch.cat(list(self._past)[-count:], dim=1)

    def close(self) -> None:
        """An iteration that ends lets go of everything."""

    def _found(self) -> LiveState | None:
        """The state to go on from."""
        found = None if self._keeping.file is None else self._keeping.file.read()
        if found is None:
            return None
        if sources(self.plan, found.next_block) - found.frames.keys():
            self._tell("What the last session of this avatar kept is of no use: it begins with the picture")
            return None
        self._tell(
            "The avatar goes on where its last session stopped; another seed begins anew",
            expected=True,
        )
        return found

    def _blocks(self) -> Generator[LatentBlock, None, None]:
        with ExitStack() as stack:
            if self._keeping.file is not None:
                self._keeping.file.lock()
                stack.callback(self._keeping.file.unlock)
            start = self._start
            while not self._is_over():
                start = yield from self._run(start)

    def _run(self, start: RunStart) -> Generator[LatentBlock, None, RunStart]:
        """Blocks of one run; returns where the next one begins. However it ends, its state is kept, but where the next
        one goes on from it."""
        plan = self._directed.plan
        part = part_from(plan, start.first_block)
        last = part.num_blocks - 1
        end = _End(start.first_block, last, self._hooks.asked)
        given = self._directed.conditions
        run = self._start_run(part, replace(given, audio=_Watched(given.audio, end)), start, end)
        with closing(run), ExitStack() as at_end:
            at_end.callback(self._keep, run)
            for block in self._checked(run):
                self._take(block)
                yield block
                if self._is_over():
                    break
                if self._is_due():
                    self._keep(run)
                if self._next > last or self._hooks.asked(self._next):
                    rings = self._rings_of(run)
                    # Later blocks are under way in a pipeline: it gives the state of those only that `end` has named.
                    if rings is not None:
                        self._directed = self._hooks.direct(self._directed, self._next)
                        at_end.pop_all()
                        return self._handed_over(rings)
        return RunStart(self._next)

    def _handed_over(self, rings: dict[str, Tensor]) -> RunStart:
        self._rings = rings
        return RunStart(self._next, dict(self._frames), rings)

    def _checked(self, run: SamplingRun) -> Iterator[LatentBlock]:
        def broken(error: NotFinite) -> MachineError:
            # Neither the block nor the caches that hold its traces may be gone on with.
            self._keeping = Keeping()
            clip = self.plan.clip_of(self._next) + 1
            return MachineError(NOT_NUMBERS.format(clip=clip, cause=self._hooks.cause_of_nan()))

        for block in run:
            with replaced(NotFinite, broken):
                check_finite([block.latents])
            yield block

    def _take(self, block: LatentBlock) -> None:
        """Remember what later sinks and the state need of a finished block."""
        self._next, self._rings = block.index + 1, block.rings
        self._past.append(block.latents)
        plan = self._directed.plan
        begins_picture = plan.script.picture_since(block.index) == block.index
        if block.index % plan.blocks_per_clip == 0 or begins_picture:
            needed = sources(plan, self._next)
            self._frames[block.index] = block.latents[:, :1].clone()
            self._frames = {source: frame for source, frame in self._frames.items() if source in needed}

    def _is_over(self) -> bool:
        return self._hooks.stopped() or self._next >= self.first_block + self.plan.num_blocks

    def _is_due(self) -> bool:
        clips, rest = divmod(self._next - self.first_block, self.plan.blocks_per_clip)
        every = self._keeping.every_clips
        return bool(every) and not rest and clips % every == 0

    def _rings_of(self, run: SamplingRun) -> dict[str, Tensor] | None:
        """The state after the last block that was given; None when later ones are past it."""
        return run.rings() if self._rings is None else dict(self._rings)

    def _keep(self, run: SamplingRun) -> None:
        file = self._keeping.file
        if file is None or self._next == self.first_block:
            return
        begun = perf_counter()
        rings = self._rings_of(run)
        if rings is not None:
            state = LiveState(self._next, rings, dict(self._frames), torch.cat(list(self._past), dim=1))
            with handled(MachineError, lambda error: self._tell(str(error))):
                file.write(state)
        self.writing_seconds += perf_counter() - begun

    def _tell(self, text: str, expected: bool = False) -> None:
        self._hooks.say(text)
        told = self.facts if expected else self.news
        if text not in told and len(told) < NEWS_KEPT:
            told.append(text)


def part_from(plan: ClipPlan, block: int) -> ClipPlan:
    """The plan up to the end of the run that begins with a block."""
    end = plan.clip_of(block) + CLIPS_A_RUN
    return plan.until(end if plan.endless else min(end, plan.num_clip))


def sources(plan: ClipPlan, block: int) -> set[int]:
    """Earlier blocks whose first latent frames the run that begins with this block makes sinks from."""
    return {source for source in part_from(plan, block).sink_frames(block) if source < block}
