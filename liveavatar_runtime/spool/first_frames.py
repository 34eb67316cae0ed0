"""The first latent frame of a finished clip, read without the rest of its file, for pictures of it."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..latent_space import CHANNELS
from .checked_files import replace_file

Colours = Sequence[Sequence[float]]
"""Factors and bias [17, 3] from latents to colours; none: those of the released VAE."""
COLOURS = "colours.json"
"""Beside a video's clips: factors and bias [17, 3] that turn its latents into colours (`vae.preview`)."""
LONGEST_HEADER = 2**16
LARGEST_SIDE = 2**10
"""Latents of a side, above what any plan has."""
NOT_THAT = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""All that a file may be instead of what is looked for in it."""


def first_frame(path: Path) -> Tensor | None:
    """[16, h, w] in the model's space; None where the file is none such. Nothing is checked but its shape and that its
    values are numbers: it is only looked at."""
    with suppress(*NOT_THAT), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, LONGEST_HEADER)))["latents"]
        channels, frames, height, width = header["shape"]
        fits = channels == CHANNELS and min(frames, height, width) > 0 and max(height, width) <= LARGEST_SIDE
        if header["dtype"] != "F32" or not fits:
            return None
        size, start = height * width * 4, 8 + length + header["data_offsets"][0]
        planes = []
        for channel in range(channels):
            file.seek(start + channel * frames * size)
            planes.append(np.frombuffer(file.read(size), "<f4").reshape(height, width))
        latents = torch.from_numpy(np.stack(planes))
        return latents if latents.isfinite().all() else None
    return None


def write_colours(folder: Path, colours: Colours) -> None:
    """Once, where the disk lets it."""
    if colours and not (folder / COLOURS).exists():
        with suppress(OSError):
            replace_file(folder / COLOURS, folder / f".{COLOURS}.tmp", [json.dumps(colours).encode()])


def read_colours(folder: Path) -> Tensor | None:
    """[17, 3]; None where there are none."""
    # Not a pipe, which would be waited for.
    if not os.path.isfile(folder / COLOURS):
        return None
    with suppress(*NOT_THAT), (folder / COLOURS).open("rb") as file:
        colours = torch.tensor(json.loads(file.read(LONGEST_HEADER)), dtype=torch.float32)
        return colours if colours.shape == (CHANNELS + 1, 3) and colours.isfinite().all() else None
    return None
