"""Default layer classes of the VAE: torch.nn's, with a convolution that is fast on the CPU for small pictures too."""

import torch
from torch import Tensor, nn

Conv2d = nn.Conv2d


class Conv3d(nn.Conv3d):
    """PyTorch sends float32 convolutions over a few thousand values to a reference loop, about ten times slower than
    oneDNN, which it takes for larger ones; a small VAE never gets beyond that limit."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type == "cpu" and input.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            padding = [int(side) for side in self.padding]
            return torch.mkldnn_convolution(input, weight, bias, padding, self.stride, self.dilation, self.groups)
        return super()._conv_forward(input, weight, bias)
