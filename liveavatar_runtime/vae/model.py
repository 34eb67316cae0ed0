"""WanVAE: the Wan 2.1 video VAE, computed chunk by chunk so that memory does not depend on the length of a video.

A chunk is one latent frame: `temporal_stride` (4) video frames, or the single first frame of a video. One-shot
`encode` and `decode` run the same chunks as the streaming calls, so that both give the same bits; small pictures are
decoded several chunks at once, which changes none.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from . import operations as vae_operations
from .config import VaeConfig
from .layers import PAST_FRAMES, AttentionBlock, Downsample, ResidualBlock, RMSNorm, Upsample, activated
from .layout import channels_lie_last, lay_out
from .state import DecodeState, EncodeState, History

PICTURE_CHANNELS = 3
PIXELS_AT_ONCE = 3 * 64 * 64
"""Of pictures that are decoded together; what they take is a few MB."""
PIXELS_OF_A_SUM = 64
"""That a processor sums over the channels side by side."""


class _Coder(nn.Module):
    """conv1, the two stacks of layers in the order of the subclass, norm + SiLU + convolution at the end."""

    name = ""
    conv1: nn.Module
    head: nn.Sequential

    def stacks(self) -> tuple[nn.Sequential, nn.Sequential]:
        raise NotImplementedError

    @property
    def layers(self) -> int:
        """How often a chunk calls its history's `on_layer`: after each layer, and half way through residual blocks."""
        return sum(1 + isinstance(layer, ResidualBlock) for stack in self.stacks() for layer in stack)

    def forward(self, x: Tensor, history: History) -> Tensor:
        """One chunk."""
        x = self.conv1(history.join(f"{self.name}.conv1", x, PAST_FRAMES))
        for stack in self.stacks():
            for layer in stack:
                x = layer(x, history)
                history.on_layer()
        return self.head[2](history.join(f"{self.name}.head.2", activated(self.head[0], x), PAST_FRAMES))


def _head(channels: int, channels_out: int, operations: Any, **factory: Any) -> nn.Sequential:
    conv = operations.Conv3d(channels, channels_out, 3, padding=(0, 1, 1), **factory)
    return nn.Sequential(RMSNorm(channels, 3, **factory), nn.SiLU(), conv)


def _middle(channels: int, operations: Any, **factory: Any) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(channels, channels, operations, **factory),
        AttentionBlock(channels, operations, **factory),
        ResidualBlock(channels, channels, operations, **factory),
    )


class Encoder(_Coder):
    """Pixels -> mean and log-variance before the last pointwise convolution."""

    def __init__(self, config: VaeConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv1 = operations.Conv3d(PICTURE_CHANNELS, config.dim, 3, padding=(0, 1, 1), **factory)
        layers: list[nn.Module] = []
        channels = config.dim
        for stage, mult in enumerate(config.dim_mult):
            for _ in range(config.num_res_blocks):
                layers.append(ResidualBlock(channels, config.dim * mult, operations, **factory))
                channels = config.dim * mult
            if stage < len(config.dim_mult) - 1:
                layers.append(Downsample(channels, config.temporal_downsample[stage], operations, **factory))
        self.downsamples = nn.Sequential(*layers)
        self.middle = _middle(channels, operations, **factory)
        self.head = _head(channels, config.z_dim * 2, operations, **factory)

    def stacks(self) -> tuple[nn.Sequential, nn.Sequential]:
        return self.downsamples, self.middle


class Decoder(_Coder):
    """Latents after the first pointwise convolution -> pixels."""

    def __init__(self, config: VaeConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        channels = config.dim * config.dim_mult[-1]
        self.conv1 = operations.Conv3d(config.z_dim, channels, 3, padding=(0, 1, 1), **factory)
        self.middle = _middle(channels, operations, **factory)
        layers: list[nn.Module] = []
        temporal = config.temporal_downsample[::-1]
        for stage, mult in enumerate(config.dim_mult[::-1]):
            for _ in range(config.num_res_blocks + 1):
                layers.append(ResidualBlock(channels, config.dim * mult, operations, **factory))
                channels = config.dim * mult
            if stage < len(config.dim_mult) - 1:
                layers.append(Upsample(channels, temporal[stage], operations, **factory))
                channels //= 2
        self.upsamples = nn.Sequential(*layers)
        self.head = _head(channels, PICTURE_CHANNELS, operations, **factory)

    def stacks(self) -> tuple[nn.Sequential, nn.Sequential]:
        return self.middle, self.upsamples


class WanVAE(nn.Module):
    """Pixels are [B, 3, T, H, W] in -1..1, latents [B, 16, t, h, w] raw (not normalised: see `to_model_space`).

    Inputs may be of any dtype and on any device: each chunk is moved to the weights. Outputs are float32 on the
    weights' device. `operations` is a namespace with Conv2d and Conv3d, by default `vae.operations`.

        state = DecodeState()
        for block in blocks:                          # 3 latent frames each
            video.append(vae.decode_stream(block, state))   # 9 frames, then 12, 12, ...
    """

    def __init__(
        self,
        config: VaeConfig,
        operations: Any = vae_operations,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.config = config
        self.encoder = Encoder(config, operations, **factory)
        self.conv1 = operations.Conv3d(config.z_dim * 2, config.z_dim * 2, 1, **factory)
        self.conv2 = operations.Conv3d(config.z_dim, config.z_dim, 1, **factory)
        self.decoder = Decoder(config, operations, **factory)
        for name, module in self.named_modules():
            if isinstance(module, (_Coder, ResidualBlock, Downsample, Upsample)):
                module.name = name

    @property
    def dtype(self) -> torch.dtype:
        return self.conv1.weight.dtype

    @property
    def weights_device(self) -> torch.device:
        return self.conv1.weight.device

    def encode(self, pixels: Tensor) -> Tensor:
        """A whole video of 1 + 4k frames -> [B, 16, 1 + k, H/8, W/8]; raises InputError for other sizes."""
        return self.encode_stream(pixels, EncodeState())

    def encode_stream(self, pixels: Tensor, state: EncodeState) -> Tensor:
        """The next frames of a video: 1 + 4k of them on a fresh state, 4k afterwards; moves `state` on.

        Returns [B, 16, 1 + k or k, H/8, W/8]. Raises InputError for other sizes, before `state` changes.
        """
        first = int(state.fresh)
        self._check_pixels(pixels, first)
        stride = self.config.temporal_stride
        batch, frames = pixels.shape[0], pixels.shape[2]
        height, width = (side // self.config.spatial_stride for side in pixels.shape[3:])
        shape = (batch, self.config.z_dim, first + frames // stride, height, width)
        latents = torch.empty(shape, device=self.weights_device, dtype=torch.float32)
        start = 0
        for index in range(latents.shape[2]):
            stop = start + (1 if state.fresh else stride)
            with state.chunk((batch, height, width)):
                latents[:, :, index : index + 1] = self.encode_chunk(pixels[:, :, start:stop], state)
            start = stop
        return latents

    def encode_chunk(self, pixels: Tensor, history: History) -> Tensor:
        """One latent frame's worth of pixels, sizes unchecked -> [B, 16, 1, H/8, W/8] in the weights' dtype."""
        moments = self.conv1(self.encoder(self._brought(pixels), history))
        return moments[:, : self.config.z_dim]

    def decode(self, latents: Tensor) -> Tensor:
        """A whole video [B, 16, t, h, w] -> [B, 3, 4t - 3, 8h, 8w], not clamped to -1..1."""
        return self.decode_stream(latents, DecodeState())

    def decode_stream(self, latents: Tensor, state: DecodeState) -> Tensor:
        """The next latent frames of a video: 4 frames each, the very first one 1; moves `state` on, not clamped.

        Raises InputError for latents of another shape, before `state` changes.
        """
        self._check_latents(latents)
        batch, _, count, height, width = latents.shape
        stride, scale = self.config.temporal_stride, self.config.spatial_stride
        frames = self.config.video_frames(count) if state.fresh else count * stride
        shape = (batch, PICTURE_CHANNELS, frames, height * scale, width * scale)
        pixels = torch.empty(shape, device=self.weights_device, dtype=torch.float32)
        start = index = 0
        while index < count:
            chunks = 1 if state.fresh else min(self._decoded_at_once(latents), count - index)
            stop = start + (1 if state.fresh else chunks * stride)
            with state.chunk((batch, height, width), chunks):
                z = self.conv2(self._brought(latents[:, :, index : index + chunks]))
                pixels[:, :, start:stop] = self.decoder(z, state)
            start, index = stop, index + chunks
        return pixels

    def _decoded_at_once(self, latents: Tensor) -> int:
        """Chunks that are decoded together: several of a small picture on a processor, where calling costs more than
        computing."""
        height, width = latents.shape[3:]
        # Others add up the channels of a frame's last pixels in another order than those of pixels in between.
        whole = height * width % PIXELS_OF_A_SUM == 0
        if not whole or self.weights_device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return 1
        return max(1, PIXELS_AT_ONCE // (height * width * self.config.spatial_stride**2))

    def _brought(self, chunk: Tensor) -> Tensor:
        """To the weights, and lying as they do."""
        device, dtype = self.weights_device, self.dtype
        chunk = chunk.to(device, dtype)
        if not channels_lie_last(device, dtype):
            return chunk
        lay_out(self)
        return chunk.contiguous(memory_format=torch.channels_last_3d)

    def _check_pixels(self, pixels: Tensor, first: int) -> None:
        side, stride = self.config.spatial_stride, self.config.temporal_stride
        if pixels.ndim != 5 or pixels.shape[1] != PICTURE_CHANNELS:
            raise InputError(
                f"pixels have shape {list(pixels.shape)}; the VAE encodes [batch, 3, frames, height, width]"
            )
        frames, height, width = pixels.shape[2:]
        if frames < 1 or frames % stride != first % stride or height % side or width % side or not height or not width:
            rule = f"1 + a multiple of {stride} at the start of a video" if first else f"a multiple of {stride}"
            raise InputError(
                f"the VAE cannot encode {frames} frames of {width}x{height}: frames must be {rule}, "
                f"width and height multiples of {side}; crop or pad the video"
            )

    def _check_latents(self, latents: Tensor) -> None:
        if latents.ndim != 5 or latents.shape[1] != self.config.z_dim or 0 in latents.shape:
            raise InputError(
                f"latents have shape {list(latents.shape)}; this VAE decodes [batch, {self.config.z_dim}, frames, "
                "height / 8, width / 8] with at least one frame"
            )


@dataclass(frozen=True)
class PlacedVAE:
    """A VAE, the device that its weights are on, and the dtype that it computes in."""

    vae: WanVAE
    device: torch.device
    dtype: torch.dtype
