"""Sizes of a Wan 2.1 video VAE, and the scaling between its latents and the diffusion model's."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..latent_space import CHANNELS, MEAN, STD


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """Stages run from the picture to the latents: stage i has dim * dim_mult[i] channels and num_res_blocks blocks.

    Between two stages the picture is halved; where `temporal_downsample` says so, the frame rate too. The decoder
    mirrors it with one more block per stage.
    """

    dim: int = 96
    z_dim: int = CHANNELS
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent along height and width."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def temporal_stride(self) -> int:
        """Video frames per latent frame, except that the first latent frame of a video is one frame."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def transient_latents(self) -> int:
        """Latent frames at the start of a video that can still feel that nothing came before it.

        From this one on, the latents of a still picture are all equal: the causal convolutions see nothing else.
        """
        convolution, block = 2, 4  # frames before the current one that a 3-tap convolution and a residual block read
        transient = convolution
        for stage in range(len(self.dim_mult)):
            transient += block * self.num_res_blocks
            if stage < len(self.temporal_downsample) and self.temporal_downsample[stage]:
                # Output j reads frames 2j-2 .. 2j, and the first output skips the temporal convolution altogether.
                transient = max(1, (transient + 3) // 2)
        return transient + 2 * block + convolution

    @property
    def decoder_past_latents(self) -> int:
        """Latent frames that a decoder must be given before one, so that it decodes as if all had been given.

        The first of them is decoded as the start of a video, which no later frame may still feel.
        """
        convolution, block = 2, 4
        past = convolution
        for stage in range(len(self.dim_mult)):
            past += block * (self.num_res_blocks + 1)
            if stage < len(self.temporal_downsample) and self.temporal_downsample[stage]:
                past = (past + 1) // 2 + convolution
        return past + 2 * block + convolution + 1

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a video of 1 + k * temporal_stride frames."""
        return 1 + (frames - 1) // self.temporal_stride

    def video_frames(self, latent_frames: int) -> int:
        """Video frames that the first `latent_frames` latent frames of a video decode to."""
        return 1 + (latent_frames - 1) * self.temporal_stride


WAN_2_1 = VaeConfig()


def infer_config(state_dict: Mapping[str, Tensor]) -> VaeConfig:
    """The sizes that the names and shapes of the encoder tell; those of the released Wan 2.1 VAE where they tell none.

    Only a guess to build a model from: whether all weights fit it is for the caller to check.
    """
    first = state_dict.get("encoder.conv1.weight")
    if first is None or first.ndim != 5 or not first.numel():
        return WAN_2_1
    dim, channels = first.shape[0], first.shape[0]
    blocks, widths, temporal = [0], [], []
    for layer in range(sum(name.startswith("encoder.downsamples.") for name in state_dict)):
        prefix = f"encoder.downsamples.{layer}."
        if f"{prefix}residual.2.weight" in state_dict:
            widened = state_dict[f"{prefix}residual.2.weight"]
            channels = widened.shape[0] if widened.ndim else 0
            blocks[-1] += 1
        elif f"{prefix}resample.1.weight" in state_dict:
            widths.append(channels)
            temporal.append(f"{prefix}time_conv.weight" in state_dict)
            blocks.append(0)
        else:
            break
    widths.append(channels)
    if blocks[0] == 0 or any(width % dim or not width for width in widths):
        return WAN_2_1
    return VaeConfig(
        dim=dim,
        dim_mult=tuple(width // dim for width in widths),
        num_res_blocks=blocks[0],
        temporal_downsample=tuple(temporal),
    )


def _statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    shape = (CHANNELS, 1, 1, 1)
    mean = torch.tensor(MEAN, device=latents.device, dtype=torch.float32).view(shape)
    std = torch.tensor(STD, device=latents.device, dtype=torch.float32).view(shape)
    return mean, std


def to_model_space(raw: Tensor) -> Tensor:
    """VAE latents [..., 16, t, h, w] (ComfyUI's LATENT) -> the diffusion model's; same dtype, computed in float32."""
    mean, std = _statistics(raw)
    return ((raw - mean) / std).to(raw.dtype)


def from_model_space(z: Tensor) -> Tensor:
    """The diffusion model's latents [..., 16, t, h, w] -> the VAE's; same dtype, computed in float32."""
    mean, std = _statistics(z)
    return (z * std + mean).to(z.dtype)
