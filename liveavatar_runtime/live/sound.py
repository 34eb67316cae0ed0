"""The sound of a live session: what its sources say, mixed at the pace of one clock, else silence."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, MachineError
from .buffers import Buffer, GivenBuffer, MicrophoneBuffer, SpeechBuffer
from .clock import Clock
from .lag import Dropped, LagPolicy, shorten_silences, without_oldest
from .samples import SOUND_RATE, History, Samples, silence
from .source import Source, SourceKind, seconds_of

CHECKED_EVERY = 0.05
"""Seconds after which whoever waits looks whether it should go on."""
_MIXED_AT_ONCE = SOUND_RATE // 2
_SPEECHES_LOOKED_AT = SOUND_RATE // 100
"""Samples after which another speech may follow one that has ended."""
SYSTEM_CLOCK = Clock()


@dataclass(frozen=True)
class Limits:
    """Seconds of sound behind what was asked for that can be read, of speech that may be queued in all sources
    together, and of one piece of a microphone; and how many sources may be open."""

    kept: float = 30.0
    speech: float = 120.0
    microphone: float = 2.0
    sources: int = 16


@dataclass(frozen=True)
class Options:
    """ahead: seconds. Where no microphone is open, sound is mixed for who waits for it, so long before it is due and
    all at once: speech that is queued is known before it is heard. 0: only when it is due."""

    policy: LagPolicy = LagPolicy()
    limits: Limits = Limits()
    ahead: float = 0.0


class LiveSound:
    """48 kHz, one channel. Sample n is heard at `due(n)` seconds of the clock; the first one when it is first waited
    for. Whoever consumes it waits for samples and then reads them. Any thread may call anything.

    Without a clock (None) all that was pushed is there at once, and mixed: as far as each of the open sources has given
    or, once all are closed, to the end of the longest. Then it is over, as if it had been stopped. `LagPolicy.most` is
    what may be pushed before it is asked for; nothing is left out.
    """

    sample_rate = SOUND_RATE

    def __init__(self, clock: Clock | None = SYSTEM_CLOCK, options: Options = Options()) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.options = options
        self.clock = clock or SYSTEM_CLOCK
        self._is_timed = clock is not None
        self._asked = 0
        ahead = options.policy.most + 2 * seconds_of(_MIXED_AT_ONCE)
        self._history = History(round((options.limits.kept + ahead) * SOUND_RATE))
        self._sources: list[Source] = []
        self._speaking: dict[str, Source] = {}
        self._start: float | None = None
        self._paused_at: float | None = None
        self._is_stopped = self._has_had_sources = False
        self._dropped = Dropped()

    # What comes in

    def open_source(self, kind: SourceKind, rate: int, name: str = "") -> Source:
        """A microphone, whose sound comes in real time, or speech, which is queued as fast as it comes. All
        microphones are mixed, with one speech of each name: others of that name are heard one after the other.

        Raises InputError for a kind or rate that is not allowed, and when too many are open or the session is over.
        """
        source = Source(self, kind, rate, name)
        with self.changed:
            self.advance()
            if self._is_stopped:
                raise InputError(f"the live session is over, so it hears no {source.title}. Start it again.")
            most = self.options.limits.sources
            if len(self._sources) >= most:
                raise InputError(
                    f"{len(self._sources)} sources of sound are open or still heard, and at most {most} are allowed. "
                    "Close those that say nothing more, or wait until they have been heard."
                )
            if kind == "microphone":
                self._end_ahead()
            self._sources.append(source)
            self._has_had_sources = True
        return source

    @property
    def sources(self) -> tuple[Source, ...]:
        """Those that are open or still heard."""
        with self.changed:
            self.advance()
            return tuple(self._sources)

    def barge_in(self) -> float:
        """Leave out all speech that is queued, at once: seconds of it. Its sources stay open."""
        with self.changed:
            self.advance()
            left_out = sum(source.buffer.drop() for source in self._sources if source.kind == "speech")
            self._forget_finished()
            return left_out

    # Who hears it

    def wait_until(self, sample: int, check: Callable[[], None] = lambda: None) -> bool:
        """Wait until the first `sample` samples are there; False when they will not be, as the session is over.

        `check` is called at least every 0.05 s and may raise. Before sound that was not asked for yet is given, what is
        too much of it is left out (`LagPolicy`).
        """
        with self.changed:
            self.begin()
            self.advance()
            self._keep_up(sample)
            self._asked = max(self._asked, sample)
            self._forgive_delay(sample)
        while True:
            check()
            with self.changed:
                now = self.advance()
                self._mix_ahead(sample, now)
                if self._history.end >= sample or self._is_over:
                    return self._history.end >= sample
                early = self.options.ahead if self._is_ahead else 0.0
                left = self.due(sample) - early - now if self._is_running else CHECKED_EVERY
                self.clock.wait(self.changed, min(CHECKED_EVERY, max(left, 0.001)))

    def read(self, first: int, end: int) -> Tensor:
        """[1, end - first] float32: samples that were waited for. After the last one of a session that is over comes
        silence.

        Raises MachineError for sound that is too old to be kept, and for sound that nobody waited for.
        """
        with self.changed:
            history = self._history
            known = min(end, history.end)
            if first < min(known, history.kept):
                raise MachineError(
                    f"the live sound from {seconds_of(first):.2f} s on is not kept any more; of {self.duration:.2f} s "
                    f"the last ones from {seconds_of(history.kept):.2f} s on are. What needs it is more than "
                    f"{self.options.limits.kept:g} s behind: start the session again."
                )
            if end > history.end and not self._is_over:
                raise MachineError(
                    f"the live sound to {seconds_of(end):.2f} s was read, and only {self.duration:.2f} s are there: "
                    "wait for it first."
                )
            sound = torch.zeros(1, end - first)
            if first < known:
                sound[0, : known - first] = torch.from_numpy(history.read(first, known))
        return sound

    @property
    def position(self) -> int:
        """Samples that were asked for."""
        return self._asked

    @property
    def kept_from(self) -> int:
        """The oldest sample that can be read."""
        return self._history.kept

    @property
    def duration(self) -> float:
        """Seconds that there are."""
        return seconds_of(self._history.end)

    @property
    def lag(self) -> float:
        """Seconds of sound that are there and were not asked for."""
        with self.changed:
            self.advance()
            return max(0.0, seconds_of(self._history.end - self._asked))

    @property
    def dropped(self) -> Dropped:
        """So far, because the session was behind."""
        with self.changed:
            return replace(self._dropped)

    def due(self, sample: int) -> float:
        """The clock's time at which so many samples are there. It moves when the session is paused or leaves sound
        out; of a session that has not begun or is paused it is as if it went on now."""
        with self.changed:
            now = self.clock.now()
            start = now if self._start is None else self._start
            waited = 0.0 if self._paused_at is None else now - self._paused_at
            return start + waited + seconds_of(sample)

    # Its clock

    def begin(self) -> None:
        """Sample 0 is heard now; what microphones gave before is not kept. Does nothing when it has begun."""
        with self.changed:
            if self._start is None:
                self._start = self.clock.now()

    def pause(self) -> None:
        """Time stands still: whoever waits goes on waiting, microphones are not heard, speech stays queued."""
        with self.changed:
            self.begin()
            now = self.advance()
            self._paused_at = now if self._paused_at is None else self._paused_at

    def go_on(self) -> None:
        """After a pause."""
        with self.changed:
            if self._start is None or self._paused_at is None:
                return
            self._start += self.clock.now() - self._paused_at
            self._paused_at = None
            for source in self._sources:
                if source.kind == "microphone":
                    source.buffer.drop()
            self.changed.notify_all()

    @property
    def is_paused(self) -> bool:
        return self._paused_at is not None

    def stop(self) -> None:
        """Nothing comes any more; who waits is told."""
        with self.changed:
            self.advance()
            self._is_stopped = True
            self._sources.clear()
            self._speaking.clear()
            self.changed.notify_all()

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    # What its sources call

    def advance(self) -> float:
        with self.changed:
            now = self.clock.now()
            if self._is_running:
                if not self._is_ahead:
                    self._skip_gap(now)
                    self._mix(self._due_samples(now), now, _MIXED_AT_ONCE)
                self._forget_finished()
            return now

    def _mix(self, end: int, now: float, most: int) -> None:
        """Sound up to sample `end`, in parts of at most so many samples: in each, of speeches of one name one is
        heard."""
        missing = end - self._history.end
        while missing > 0:
            part = min(missing, most)
            self._history.append(self._mixed(part, now))
            self._leave_out_oldest()
            missing -= part

    @property
    def _is_ahead(self) -> bool:
        """Whether sound is mixed before it is due."""
        return self._is_timed and self.options.ahead > 0 and all(one.kind == "speech" for one in self._sources)

    def _mix_ahead(self, sample: int, now: float) -> None:
        if self._is_ahead and self._is_running and self.due(sample) - self.options.ahead <= now:
            self._mix(sample, now, _SPEECHES_LOOKED_AT)
            self._forget_finished()

    def _end_ahead(self) -> None:
        """What comes next is due now."""
        if self._is_ahead and self._start is not None:
            self._start -= max(0.0, self.due(self._history.end) - self.clock.now())

    def _forgive_delay(self, sample: int) -> None:
        """Where nothing is heard that has not been asked for, a session that was slow has nothing to catch up with."""
        if self._is_ahead and self._is_running and self._start is not None:
            late = self.clock.now() + self.options.ahead - self.due(sample)
            self._start += late if late > self.options.policy.bound else 0.0

    def buffer_for(self, kind: SourceKind) -> Buffer:
        if not self._is_timed:
            return GivenBuffer()
        return MicrophoneBuffer() if kind == "microphone" else SpeechBuffer()

    def room_for(self, source: Source) -> float:
        limits = self.options.limits
        if not self._is_timed:
            return max(0.0, self.options.policy.most - source.buffer.level - self._backlog(self._asked))
        if source.kind == "microphone":
            return limits.microphone
        queued = sum(other.buffer.level for other in self._sources if other.kind == "speech")
        return max(0.0, limits.speech - queued)

    def is_listening(self, source: Source) -> bool:
        if self._is_stopped:
            return False
        return source.kind == "speech" or not self._is_timed or self._is_running

    def forget(self, source: Source) -> None:
        self._forget_finished()

    @property
    def _is_running(self) -> bool:
        return not self._is_stopped and (not self._is_timed or (self._start is not None and not self.is_paused))

    @property
    def _is_over(self) -> bool:
        ended = not self._is_timed and self._has_had_sources and not self._sources
        return self._is_stopped or ended

    def _due_samples(self, now: float) -> int:
        """How many should be there."""
        if self._is_timed:
            assert self._start is not None
            return math.floor((now - self._start) * SOUND_RATE)
        levels = [(source.buffer.closed, round(source.buffer.level * SOUND_RATE)) for source in self._sources]
        given = [level for closed, level in levels if not closed] or [max((level for _, level in levels), default=0)]
        return self._history.end + min(given)

    def _mixed(self, count: int, now: float) -> Samples:
        mixed = silence(count)
        for source in self._heard(now):
            mixed += source.buffer.take(count)
        return np.clip(mixed, -1.0, 1.0, out=mixed)

    def _heard(self, now: float) -> list[Source]:
        """Those that are heard now: of the speeches of one name the one that was heard before, as long as it speaks."""
        if not self._is_timed:
            return self._sources
        ready = [source for source in self._sources if source.buffer.ready(now)]
        speaking: dict[str, Source] = {}
        for source in ready:
            if source.kind == "speech" and (source is self._speaking.get(source.name) or source.name not in speaking):
                speaking[source.name] = source
        self._speaking = speaking
        return [source for source in ready if source.kind == "microphone" or speaking[source.name] is source]

    def _forget_finished(self) -> None:
        self._sources = [source for source in self._sources if not source.buffer.finished]

    # What becomes of a lag

    def _backlog(self, asked: int) -> float:
        return seconds_of(self._history.end - asked)

    def _skip_gap(self, now: float) -> None:
        """After a time in which nobody looked, as of a computer that slept: it is left out."""
        assert not self._is_timed or self._start is not None
        too_late = self._due_samples(now) - self._history.end if self._is_timed else 0
        gap = seconds_of(too_late) - self.options.policy.most
        if gap > 0 and self._start is not None:
            self._start += gap
            self._dropped.speech += gap

    def _keep_up(self, sample: int) -> None:
        """Before samples are given up to `sample`, shorten what is behind what was given."""
        policy = self.options.policy
        lag = self._backlog(max(sample, self._asked))
        if self._is_timed and policy.rule == "drop silence" and lag > policy.bound:
            behind = self._history.take_back(self._asked)
            # Somewhat more than needed, so that not every block has to.
            shorter = shorten_silences(behind, round((lag - policy.bound / 2) * SOUND_RATE), policy)
            self._dropped.silence += self._shortened(behind, shorter)

    def _leave_out_oldest(self) -> None:
        most = self.options.policy.most
        too_many = round((self._backlog(self._asked) - most) * SOUND_RATE)
        if self._is_timed and too_many > 0:
            behind = self._history.take_back(self._asked)
            self._dropped.speech += self._shortened(behind, without_oldest(behind, too_many))

    def _shortened(self, behind: Samples, shorter: Samples) -> float:
        self._history.append(shorter)
        seconds = seconds_of(len(behind) - len(shorter))
        assert self._start is not None
        self._start += seconds
        return seconds
