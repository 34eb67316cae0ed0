"""How stages hand tensors to each other: the interface that in-process queues and process groups both fill.

A link leads from one stage to another, and messages on it arrive in the order they were sent. A stage asks for what
its next operation needs; what arrives earlier than it is needed waits in the receiver's mailbox.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from ..errors import MachineError

MessageKind = Literal["start", "sink", "hidden", "latents", "first_frame"]
"""start: what is made once a video (text, time), down the layer pipeline. sink: sink tokens between two layer ranges,
with the text where another prompt begins. hidden: a block's tokens between two layer ranges, at step 0 with its encoded
voice. latents: a block's latents between two steps. first_frame: the first latent frame of a block that a sink is made
from, from the stage that finishes it."""


@dataclass(frozen=True)
class MessageKey:
    """What a message is about; (kind, block, step) of the operation that needs it, 0 where there is none."""

    kind: MessageKind
    block: int = 0
    step: int = 0


Tensors = Mapping[str, Tensor]


class StageStopped(Exception):
    """The run was cancelled or another stage failed: this stage ends without a message of its own."""


class Transport(Protocol):
    """One stage's end of all its links. Every method raises StageStopped once the run has been stopped."""

    def deliver(self, stage: int, key: MessageKey, tensors: Tensors) -> None:
        """Hand tensors to another stage; may return before they are there; waits while the link is full.

        The caller does not write into the tensors afterwards.
        """
        ...

    def receive(self, stage: int, key: MessageKey) -> dict[str, Tensor]:
        """The tensors of a message from another stage, on this stage's device; waits for them."""
        ...

    def check(self) -> None:
        """Raises StageStopped when the run has been stopped; a stage calls it between operations."""
        ...


class StageError(MachineError):
    """A stage failed; the text names its number and device, and ends with the error it met there."""
