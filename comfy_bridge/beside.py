"""Models that work while another node's model samples, so that loading that one leaves them where they are."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from .comfy_types import Managed


@dataclass(eq=False)
class Beside:
    """What works beside a sampler: the models, and bytes that the largest of their work takes on a device.

    Sampling begins when the first block is asked for, so whoever asks says before what it needs.
    """

    models: Sequence[Managed[torch.nn.Module]] = ()
    working_bytes: int = 0

    @contextmanager
    def with_models(self, models: Sequence[Managed[torch.nn.Module]], working_bytes: int) -> Iterator[None]:
        """In here these work beside the sampler."""
        self.models, self.working_bytes = models, working_bytes
        with ExitStack() as stack:
            stack.callback(self._without)
            yield

    def _without(self) -> None:
        self.models, self.working_bytes = (), 0
