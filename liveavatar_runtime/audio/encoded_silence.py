"""What an audio encoder makes of silence: what somebody hears who does not speak while others do.

Zeros, which follow after the end of a voice, are no silence to the model: the demo's mouths hang open with them, nearly
as far as in speech (benchmarks/results/speakers.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..duration import ENCODER_SAMPLE_RATE

SECONDS = 6
"""So long that a frame in the middle sees no end of it: wav2vec2 looks 1.3 s to both sides for positions."""


@dataclass(frozen=True, eq=False)
class EncodedSilence:
    """encode: (samples [1, S], samples a second) -> hidden states [L, T, D]."""

    encode: Callable[[Tensor, int], Tensor]

    @cached_property
    def frame(self) -> Tensor:
        """[L, D] float32, the same for every moment; encoded when it is asked for first."""
        states = self.encode(torch.zeros(1, SECONDS * ENCODER_SAMPLE_RATE), ENCODER_SAMPLE_RATE)
        return states[:, states.shape[1] // 2].float().cpu().clone()
