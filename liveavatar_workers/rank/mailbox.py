"""The links between stages that are processes (`transport.Transport`), over a rank messenger."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from liveavatar_runtime.device_kinds import copies_ahead
from liveavatar_runtime.pipeline.transport import MessageKey, StageStopped, Tensors

from ..messages import RankVoice, StageInput, Stop
from .rank_messenger import RankMessenger
from .ranks import Rank

POLL_SECONDS = 0.1
Taken = TypeVar("Taken")


class Mailbox:
    """What has arrived for the runs of this rank. Runs are counted; every rank does the same ones in the same order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: dict[tuple[Any, ...], dict[str, Tensor]] = {}
        self._stopped: dict[int, str] = {}
        self.run = 0

    def put(self, run: int, key: tuple[Any, ...], tensors: dict[str, Tensor]) -> None:
        """A message of an earlier run is thrown away, one of a later run waits."""
        with self._changed:
            if run >= self.run:
                self._messages[(run, *key)] = tensors
            self._changed.notify_all()

    def stop(self, run: int, why: str = "") -> None:
        with self._changed:
            self._stopped.setdefault(run, why)
            self._changed.notify_all()

    def begin(self, run: int) -> None:
        """Forget the runs before."""
        with self._changed:
            self.run = run
            self._messages = {key: tensors for key, tensors in self._messages.items() if key[0] >= run}
            self._stopped = {number: why for number, why in self._stopped.items() if number >= run}

    def wake(self) -> None:
        """Something that is waited for may have changed."""
        with self._changed:
            self._changed.notify_all()

    @property
    def stopped(self) -> str | None:
        """Why the present run was stopped, if it was."""
        return self._stopped.get(self.run)

    def take(self, key: tuple[Any, ...], check: Callable[[], None]) -> dict[str, Tensor]:
        """Wait for a message of the present run; `check` is called meanwhile and raises to end the wait."""
        return self.wait(lambda: self._messages.pop((self.run, *key), None), check)

    def wait(self, take: Callable[[], Taken | None], check: Callable[[], None]) -> Taken:
        """What `take` gives once it gives something; it is tried again whenever something has arrived."""
        with self._changed:
            while True:
                check()
                taken = take()
                if taken is not None:
                    return taken
                self._changed.wait(POLL_SECONDS)


class DistributedTransport:
    """One stage's end of all its links. `cancelled` tells on rank 0 that ComfyUI wants no more."""

    def __init__(self, rank: Rank, messenger: RankMessenger, mailbox: Mailbox, cancelled: Callable[[], bool]) -> None:
        self._rank, self._messenger, self._mailbox, self._cancelled = rank, messenger, mailbox, cancelled

    def deliver(self, stage: int, key: MessageKey, tensors: Tensors) -> None:
        self.check()
        run = self._mailbox.run
        self._messenger.send(
            stage, StageInput(run=run, kind=key.kind, block=key.block, step=key.step, tensors=dict(tensors))
        )

    def receive(self, stage: int, key: MessageKey) -> dict[str, Tensor]:
        # A stage that waits is not one that hangs.
        with self._rank.stall_detector.waiting():
            tensors = self._mailbox.take((stage, key.kind, key.block, key.step), self.check)
        device = self._rank.device
        return {
            name: tensor.to(device, non_blocking=copies_ahead(device, tensor.device))
            for name, tensor in tensors.items()
        }

    def check(self) -> None:
        self._rank.stall_detector.mark()
        self._messenger.check()
        if self._cancelled():
            self._mailbox.stop(self._mailbox.run)
        if self._mailbox.stopped is not None:
            raise StageStopped


def file_message(mailbox: Mailbox, source: int, message: StageInput | RankVoice | Stop) -> None:
    """A message for the mailbox: what a stage waits for, or a stop."""
    if isinstance(message, StageInput):
        mailbox.put(message.run, (source, message.kind, message.block, message.step), message.tensors)
    elif isinstance(message, RankVoice):
        pose = {} if message.pose is None else {"pose": message.pose}
        mailbox.put(message.run, ("voice", message.first), {"audio": message.audio, **pose})
    else:
        mailbox.stop(message.run, message.why)
