"""TinyDecoder: taew2_1 and lighttaew2_1, small decoders for the latents of the Wan 2.1 VAE, as a stream.

The architecture is TAEHV's (https://github.com/madebyollin/taehv): convolutions in two dimensions, of which some also
read the frame before, and layers that make two frames of one. A latent frame becomes four video frames; of the first
one of a video the last three of them lie before it, as with the Wan 2.1 VAE.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from ..latent_space import CHANNELS
from ..texts import MISSING, OF_ANOTHER_SHAPE, UNEXPECTED, listing
from .checkpoint import TINY

STAGES, BLOCKS_PER_STAGE = 3, 3
FIRST_CONV = 1
"""Place of the first convolution among the decoder's layers."""
RIGHT_FILES = "taew2_1.safetensors or lighttaew2_1.safetensors"
DECODE_VALUES_PER_PIXEL = 64 * 4 * 6
"""Of one latent frame: six tensors of four frames with 64 channels at the widest moment."""


class _Clamp(nn.Module):
    """Latents beyond 3 standard deviations are drawn in."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _MemoryBlock(nn.Module):
    """A residual block over each frame and the one before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Both [n, C, h, w], frame by frame."""
        return F.relu(self.conv(torch.cat([x, before], dim=1)).add_(x), inplace=True)


class _MoreFrames(nn.Module):
    """One frame becomes `factor` frames, each from channels of its own."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(channels, channels * factor, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, h, w] -> [n * factor, C, h, w]"""
        return self.conv(x).reshape(-1, *x.shape[1:])


@dataclass
class TinyState:
    """The last frame that each memory block has read, [1, C, h, w], by its place; empty at the start of a video."""

    before: dict[int, Tensor] = field(default_factory=dict)


class TinyDecoder(nn.Module):
    """Latents [n, 16, h, w] of n latent frames -> pixels [4n, 3, 8h, 8w], about 0..1.

    widths: channels of the three stages and of the last convolution. frame_factors: frames that each stage makes of
    one. normalised: whether it was trained on the diffusion model's latents, as taew2_1 was; lighttaew2_1 was on the
    VAE's own.
    """

    def __init__(self, widths: tuple[int, ...], frame_factors: tuple[int, ...], normalised: bool) -> None:
        super().__init__()
        self.widths, self.frame_factors, self.normalised = widths, frame_factors, normalised
        layers: list[nn.Module] = [_Clamp(), nn.Conv2d(CHANNELS, widths[0], 3, padding=1), nn.ReLU(inplace=True)]
        for channels, narrower, factor in zip(widths, widths[1:], frame_factors, strict=False):
            layers += [_MemoryBlock(channels) for _ in range(BLOCKS_PER_STAGE)]
            layers += [nn.Upsample(scale_factor=2), _MoreFrames(channels, factor)]
            layers.append(nn.Conv2d(channels, narrower, 3, padding=1, bias=False))
        layers += [nn.ReLU(inplace=True), nn.Conv2d(widths[-1], 3, 3, padding=1)]
        self.decoder = nn.Sequential(*layers)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent along height and width."""
        return 2 ** len(self.frame_factors)

    @property
    def past_latents(self) -> int:
        """Latent frames before one that its frames depend on."""
        past, rate = 0, 1
        for factor in self.frame_factors:
            # Each block reads one frame further back, at the rate of its stage.
            past += -(-BLOCKS_PER_STAGE // rate)
            rate *= factor
        return past

    @torch.inference_mode()
    def decode_stream(self, latents: Tensor, state: TinyState) -> Tensor:
        """The next latent frames of a video; moves `state` on. One after the other, so that memory does not grow."""
        return torch.cat([self._frame(latent[None], state) for latent in latents])

    def _frame(self, x: Tensor, state: TinyState) -> Tensor:
        for place, layer in enumerate(self.decoder):
            if isinstance(layer, _MemoryBlock):
                first = state.before.get(place)
                before = torch.cat([torch.zeros_like(x[:1]) if first is None else first, x[:-1]])
                state.before[place] = x[-1:].clone()
                x = layer(x, before)
            else:
                x = layer(x)
        return x


@dataclass(frozen=True)
class PlacedTinyDecoder:
    """A small decoder, the device that its weights are on, and the dtype that it computes in."""

    decoder: TinyDecoder
    device: torch.device
    dtype: torch.dtype


def is_tiny_decoder(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a VAE's weights are of this architecture, for whatever latents."""
    return TINY in state_dict


def load_tiny_decoder(
    state_dict: Mapping[str, Tensor], dtype: torch.dtype | None = None, normalised: bool = True
) -> TinyDecoder:
    """A frozen TinyDecoder with the weights of taew2_1 or lighttaew2_1, whose names are the same; the encoder's are
    left out. Raises CheckpointError for anything but a complete decoder of Wan 2.1's latents."""
    weights = {name: value for name, value in state_dict.items() if name.startswith("decoder.")}
    with torch.device("meta"):
        tiny = TinyDecoder(*_sizes(weights), normalised)
    expected = tiny.state_dict()
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    misshaped = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    if missing or unexpected or misshaped:
        kinds = ((MISSING, missing), (UNEXPECTED, unexpected), (OF_ANOTHER_SHAPE, misshaped))
        details = "; ".join(listing(kind, names) for kind, names in kinds if names)
        raise CheckpointError(f"these weights are not a complete small decoder: {details}. Please take {RIGHT_FILES}.")
    tiny.load_state_dict(weights, strict=True, assign=True)
    return tiny.to(dtype).eval().requires_grad_(False)


def _sizes(weights: Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels of the stages and the last convolution, and the frames that each stage makes of one."""
    first = weights.get(f"decoder.{FIRST_CONV}.weight")
    if first is None or first.ndim != 4 or first.shape[1] != CHANNELS:
        channels = "no" if first is None or first.ndim != 4 else first.shape[1]
        raise CheckpointError(
            f"this small decoder is for {channels} latent channels, and the model's latents have {CHANNELS}. Please "
            f"take {RIGHT_FILES}."
        )
    widths, factors = [first.shape[0]], []
    for stage in range(STAGES):
        # A stage: its blocks, the upsampling, more frames, and a convolution to the next stage's width.
        grow = FIRST_CONV + 1 + (stage + 1) * (BLOCKS_PER_STAGE + 3) - 1
        more, narrower = weights.get(f"decoder.{grow}.conv.weight"), weights.get(f"decoder.{grow + 1}.weight")
        factors.append(max(1, more.shape[0] // widths[-1]) if more is not None and more.ndim else 1)
        widths.append(narrower.shape[0] if narrower is not None and narrower.ndim else widths[-1])
    return tuple(widths), tuple(factors)
