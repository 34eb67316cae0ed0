"""Default layer classes of the VAE: torch.nn's, with a convolution that is fast on the CPU for small pictures too."""

from functools import lru_cache

import torch
from torch import Tensor, nn

Conv2d = nn.Conv2d
WORTH_ARRANGING = 2**14
"""Pixels of all frames."""


class Conv3d(nn.Conv3d):
    """PyTorch sends float32 convolutions over a few thousand values to a reference loop, about ten times slower than
    oneDNN, which it takes for larger ones; a small VAE never gets beyond that limit."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type == "cpu" and input.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            frames = self._frames_together(input)
            if frames > 1 and bias is not None:
                return _of_several_frames(frames, input, weight, bias)
            padding = [int(side) for side in self.padding]
            return torch.mkldnn_convolution(input, weight, bias, padding, self.stride, self.dilation, self.groups)
        return super()._conv_forward(input, weight, bias)

    def _frames_together(self, input: Tensor) -> int:
        """Of the output, that have no more channels than the processor computes at once; 1 for other convolutions, and
        where pictures are so small that arranging takes longer than computing."""
        usual = self.kernel_size == (3, 3, 3) and self.stride == self.dilation == (1, 1, 1) and self.groups == 1
        made, pixels = input.shape[2] - 2, input.shape[3] * input.shape[4]
        if not usual or self.padding != (0, 1, 1) or made * pixels < WORTH_ARRANGING:
            return 1
        return next(n for n in (4, 2, 1) if made % n == 0 and (n == 1 or n * self.out_channels <= numbers_at_once()))


@lru_cache(1)
def numbers_at_once() -> int:
    """float32 of a register. oneDNN fills one with channels, and leaves the rest of it empty where there are fewer."""
    return 16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 8


def _of_several_frames(frames: int, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A causal 3x3x3 convolution of x [B, C, T + 2, H, W] that makes so many of the T frames at once, as channels; the
    same bits, since what a frame does not see is multiplied by 0."""
    channels, channels_in, taps, *sides = weight.shape
    wide = weight.new_zeros(frames, channels, channels_in, frames + taps - 1, *sides)
    for frame in range(frames):
        wide[frame, :, :, frame : frame + taps] = weight
    found = torch.mkldnn_convolution(
        x, wide.flatten(0, 1), bias.repeat(frames), (0, 1, 1), (frames, 1, 1), (1, 1, 1), 1
    )
    return found.unflatten(1, (frames, channels)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3).contiguous()
