"""What a source has given and nobody has heard yet: a microphone's short buffer, a program's queue of speech."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from .drift import DriftControl, DriftingReader
from .samples import FADE, SOUND_RATE, SampleQueue, Samples, cross_faded, rising, silence

PREBUFFER = 0.08
"""Seconds of a source that wait before it is heard, so that a piece may come late."""
ALMOST = 0.003
"""Seconds by which it may be less: what a conversion of the rate keeps back."""
PATIENCE = 0.25
"""Seconds after which less is heard too."""
TOO_LATE, LOOKED_AT = 0.03, 0.5
"""Seconds by which a microphone may stay behind that are made up by reading faster; more, for so many seconds, is left
out at once, as after a stretch in which nothing came through and then all of it."""
MUCH_TOO_LATE = 1.0
"""Seconds more than it should have, at which a microphone's oldest ones are left out without looking further."""
LATER, LATEST, CALM = 0.02, 0.12, 60.0
"""Seconds that a microphone waits more after each piece that came too late, up to so many, and less again after so many
without one."""
GONE = 1.0
"""Seconds after which a microphone that gives nothing was not late, but off."""


@dataclass
class BufferCounts:
    """How often a source had nothing to give while it was heard, and seconds of it that were left out."""

    ran_dry: int = 0
    left_out: float = 0.0


class Buffer(ABC):
    """Sound of one source at 48 kHz. `put` and `take` are called with the session's clock in seconds."""

    def __init__(self) -> None:
        self.counts = BufferCounts()
        self.closed = False
        self._since: float | None = None
        """When what waits began to."""
        self._is_heard = False
        self._fading_in = 0

    @property
    @abstractmethod
    def level(self) -> float:
        """Seconds that wait."""

    @property
    def speed(self) -> float:
        """At which it is read."""
        return 1.0

    @property
    def finished(self) -> bool:
        """Whether nothing comes any more."""
        return self.closed and not self._available()

    @abstractmethod
    def put(self, samples: Samples, now: float) -> None: ...

    def ready(self, now: float) -> bool:
        """Whether it has something to be heard."""
        if self._is_heard or not self._available():
            return self._is_heard
        patient = self._since is not None and now - self._since < PATIENCE
        return self.closed or not patient or self.level >= self._wanted() - ALMOST

    def take(self, count: int) -> Samples:
        """The next `count` samples, of one that is `ready`; silence behind its end."""
        self._is_heard = True
        # The last ones are kept back to fade out with, as long as more may come.
        most = self._available() - (0 if self.closed else FADE)
        if most >= count:
            return self._faded_in(self._read(count))
        rest = self._faded_in(self._read(min(count, self._available())))
        if not self.closed:
            fading = min(FADE, len(rest))
            rest[len(rest) - fading :] *= rising(fading)[::-1]
            self.counts.ran_dry += 1
        self._stop()
        taken = silence(count)
        taken[: len(rest)] = rest
        return taken

    def drop(self) -> float:
        """Leaves out all that waits: seconds."""
        level = self.level
        self._clear()
        self._stop()
        return level

    def _noted(self, now: float) -> None:
        if self._since is None:
            self._since = now

    def _stop(self) -> None:
        self._is_heard, self._since, self._fading_in = False, None, FADE

    def _faded_in(self, samples: Samples) -> Samples:
        fading = min(self._fading_in, len(samples))
        if fading:
            done = FADE - self._fading_in
            samples[:fading] *= rising(FADE)[done : done + fading]
            self._fading_in -= fading
        return samples

    def _wanted(self) -> float:
        return PREBUFFER

    @abstractmethod
    def _available(self) -> int:
        """Samples that can be read."""

    @abstractmethod
    def _read(self, count: int) -> Samples: ...

    @abstractmethod
    def _clear(self) -> None: ...


class SpeechBuffer(Buffer):
    """Speech that comes as fast as it is made, and is heard at its own pace, sample by sample."""

    def __init__(self) -> None:
        super().__init__()
        self._queue = SampleQueue()

    @property
    def level(self) -> float:
        return len(self._queue) / SOUND_RATE

    def put(self, samples: Samples, now: float) -> None:
        self._queue.put(samples)
        self._noted(now)

    def drop(self) -> float:
        left_out = self.level
        ending = self._queue.take(FADE) if self._is_heard else silence(0)
        self._queue.clear()
        self._queue.put(ending * rising(len(ending))[::-1])
        return left_out - self.level

    def _available(self) -> int:
        return len(self._queue)

    def _read(self, count: int) -> Samples:
        return self._queue.take(count)

    def _clear(self) -> None:
        self._queue.clear()


class GivenBuffer(SpeechBuffer):
    """Sound without a clock: all of it is heard, and what does not come yet is waited for."""

    def take(self, count: int) -> Samples:
        given = self._read(count)
        return np.concatenate([given, silence(count - len(given))])


class MicrophoneBuffer(Buffer):
    """Sound that comes in real time by a clock of its own. It waits `PREBUFFER`, or two pieces where these are long,
    and longer where pieces come late; it stays as late as that."""

    def __init__(self) -> None:
        super().__init__()
        self._reader = DriftingReader()
        self._control = DriftControl()
        self._piece = 0.0
        """Seconds of a usual piece."""
        self._least, self._looked = float("inf"), 0.0
        """The lowest level after a piece since then."""
        self._more, self._changed, self._came = 0.0, 0.0, 0.0
        """Seconds that it waits more, since when; and when the last piece came."""
        self._dry_before = 0

    @property
    def level(self) -> float:
        return self._reader.level

    @property
    def speed(self) -> float:
        return self._control.speed

    def put(self, samples: Samples, now: float) -> None:
        seconds = len(samples) / SOUND_RATE
        self._piece += (seconds - self._piece) * (0.1 if self._piece else 1)
        self._reader.queue.put(samples)
        self._noted(now)
        self._learn_lateness(now)
        if self.level > self._wanted() + MUCH_TOO_LATE:
            self._leave_out(self.level - self._wanted())
            self._control.begin()
        if not self._is_heard:
            self._look_from(now)
            self._control.begin()
            return
        self._control.saw(self.level, self._wanted(), now)
        self._least = min(self._least, self.level)
        if now - self._looked >= LOOKED_AT:
            late = self._least - self._wanted()
            if late > TOO_LATE:
                self._leave_out(late)
                self._control.begin()
            self._look_from(now)

    def _learn_lateness(self, now: float) -> None:
        ran_dry = self.counts.ran_dry > self._dry_before
        if ran_dry and now - self._came < GONE:
            self._more, self._changed = min(self._more + LATER, LATEST), now
        elif now - self._changed > CALM:
            self._more, self._changed = max(self._more - LATER, 0.0), now
        self._dry_before, self._came = self.counts.ran_dry, now

    def _look_from(self, now: float) -> None:
        self._least, self._looked = float("inf"), now

    def _leave_out(self, seconds: float) -> None:
        queue, count = self._reader.queue, round(seconds * SOUND_RATE)
        if len(queue) < count + 2 * FADE:
            return
        given = queue.view(count + FADE)
        given[count:] = cross_faded(given[:FADE].copy(), given[count:].copy())
        queue.drop(count)
        self.counts.left_out += seconds

    def _wanted(self) -> float:
        return max(PREBUFFER, 2 * self._piece) + self._more

    def _available(self) -> int:
        return self._reader.available(self.speed)

    def _read(self, count: int) -> Samples:
        return self._reader.take(count, self.speed)

    def _clear(self) -> None:
        self._reader.clear()
