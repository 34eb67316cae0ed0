"""Random weights under the names of taew2_1 and lighttaew2_1, whose own files are not here."""

import torch
from torch import Tensor, nn

from liveavatar_runtime.vae.tiny import TinyDecoder


def tiny_vae_weights() -> dict[str, Tensor]:
    """Of the published sizes; the encoder's, which nothing here reads, as ComfyUI wants them."""
    decoder = TinyDecoder((256, 128, 64, 64), (1, 2, 2), normalised=True)
    generator = torch.Generator().manual_seed(11)
    weights = {**decoder.state_dict(), **_encoder()}
    return {name: _random(weight, generator) for name, weight in weights.items()}


def _random(weight: Tensor, generator: torch.Generator) -> Tensor:
    scale = 1.2 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.05
    return torch.randn(weight.shape, generator=generator) * scale


def _encoder() -> dict[str, Tensor]:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3), nn.ReLU()]
    for stride in (2, 2, 1):
        pool, blocks = nn.Module(), [nn.Module() for _ in range(3)]
        pool.conv = nn.Conv2d(64 * stride, 64, 1, bias=False)
        for block in blocks:
            convolutions = (nn.Conv2d(128, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
            block.conv = nn.Sequential(*convolutions)
        layers += [pool, nn.Conv2d(64, 64, 3, bias=False), *blocks]
    layers.append(nn.Conv2d(64, 16, 3))
    return {f"encoder.{name}": weight for name, weight in nn.Sequential(*layers).state_dict().items()}
