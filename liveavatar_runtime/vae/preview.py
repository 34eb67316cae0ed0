"""Colours of latents without decoding them: a linear map that belongs to the VAE whose latents they are."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import to_model_space
from .model import PICTURE_CHANNELS, WanVAE
from .state import EncodeState, OnLayer, go_on

SIDE = 64
PICTURES, DISCS = 6, 60
RADII = (4, 24)
RIDGE = 1e-3


def preview_factors(vae: WanVAE, published: Tensor, on_layer: OnLayer = go_on) -> Tensor:
    """Factors and bias [17, 3] that give the colours (-1..1) of this VAE's latents in the model's space.

    `published`: those of the released Wan 2.1 VAE. They are returned where they explain this VAE's latents of made
    pictures better than one mean colour does; a VAE with a latent space of its own gets its own, by least squares.
    Float32 on the CPU; equal weights give equal factors.
    """
    pictures = made_pictures()
    colours = F.avg_pool2d(pictures, vae.config.spatial_stride)
    with torch.inference_mode():
        # First frames of videos: a quarter of the work of settled latents, and the colours are the same.
        chunk = vae.encode_chunk(pictures[:, :, None], EncodeState(watch=on_layer))
        latents = to_model_space(chunk.float())[:, :, 0].cpu()
    known, wanted = (x.movedim(1, -1).flatten(0, 2).double() for x in (latents, colours))
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    if (known @ published.double() - wanted).square().mean() < (wanted - wanted.mean(0)).square().mean():
        return published.float().clone()
    square = known.T @ known + RIDGE * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    return torch.linalg.solve(square, known.T @ wanted).float()


def made_pictures() -> Tensor:
    """Discs of many sizes that hide each other, in soft colours: [6, 3, 64, 64] in -1..1, always the same ones.

    Such pictures have edges and surfaces as real ones do.
    """
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    pictures = torch.zeros(PICTURES, PICTURE_CHANNELS, SIDE, SIDE)
    for picture in pictures:
        for _ in range(DISCS):
            x, y, size, *colour = torch.rand(3 + PICTURE_CHANNELS, generator=generator)
            radius = RADII[0] * (RADII[1] / RADII[0]) ** size
            inside = (columns - x * SIDE) ** 2 + (rows - y * SIDE) ** 2 < radius**2
            full = torch.stack(colour) * 2 - 1
            picture[:, inside] = ((full + full.mean()) / 2)[:, None]
    return pictures
