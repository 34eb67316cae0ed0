"""Files of the finishing's models, of the architectures that ComfyUI loads at a size for a processor.

Upscaling: Compact (SRVGGNet, as realesr-general) with random weights, which adds little to an enlargement by nearest
pixels. Frames between: RIFE (IFNet 4.2x) whose last layers are zero, so that it finds no motion and gives the mean of
two frames. They show what happens to frames, not what good models make of them.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

CHANNELS = 8
HEAD = 4


def write_upscale_model(path: Path, scale: int = 2) -> None:
    """For the folder models/upscale_models."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for place, (outputs, inputs) in enumerate([(CHANNELS, 3), (CHANNELS, CHANNELS), (3 * scale**2, CHANNELS)]):
        weights[f"body.{2 * place}.weight"] = 0.1 * torch.randn(outputs, inputs, 3, 3, generator=generator)
        weights[f"body.{2 * place}.bias"] = torch.zeros(outputs)
    for place in (1, 3):
        weights[f"body.{place}.weight"] = torch.full((CHANNELS,), 0.25)
    save_file(weights, path)


def write_interpolation_model(path: Path) -> None:
    """For the folder models/frame_interpolation."""
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            name: torch.zeros(shape) if ".lastconv." in name else 0.1 * torch.randn(shape, generator=generator)
            for name, shape in _rife_shapes()
        },
        path,
    )


def _rife_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the weights."""

    def layer(name: str, shape: tuple[int, ...], outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        yield f"{name}.bias", (outputs,)

    yield from layer("encode.cnn0", (16, 3, 3, 3), 16)
    yield from layer("encode.cnn1", (16, 16, 3, 3), 16)
    yield from layer("encode.cnn2", (16, 16, 3, 3), 16)
    yield from layer("encode.cnn3", (16, HEAD, 4, 4), HEAD)
    for number in range(5):
        inputs = 7 + 2 * HEAD if number == 0 else 20 + 2 * HEAD
        block = f"blocks.{number}"
        yield from layer(f"{block}.conv0.0.0", (CHANNELS // 2, inputs, 3, 3), CHANNELS // 2)
        yield from layer(f"{block}.conv0.1.0", (CHANNELS, CHANNELS // 2, 3, 3), CHANNELS)
        for place in range(8):
            yield f"{block}.convblock.{place}.beta", (1, CHANNELS, 1, 1)
            yield from layer(f"{block}.convblock.{place}.conv", (CHANNELS, CHANNELS, 3, 3), CHANNELS)
        yield from layer(f"{block}.lastconv.0", (CHANNELS, 4 * 13, 4, 4), 4 * 13)
