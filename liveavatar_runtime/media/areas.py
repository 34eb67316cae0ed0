"""Where each of several speakers is in a picture: by masks, by the faces in it, or by dividing it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .faces import SECOND_FACE, Box, find_faces, opencv_advice, why_unchecked
from .images import rgb_pixels

MOST = 4
"""People in a picture who have an area."""
SAME_ASPECT = 0.02
"""Relative difference of two aspects that rounding to pixels makes."""
INSIDE = 0.9
"""Share of an area that another one may not have of it, or its speaker would have no voice."""
SHARED = 0.01
"""Share from which on it is told."""


@dataclass(frozen=True, eq=False)
class Areas:
    """masks: float32 [A, H, W], 0 or 1; what differs from what was expected, and facts, in words for the user."""

    masks: Tensor
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def areas_by_masks(masks: Mapping[int, object], picture: Tensor | None) -> Areas:
    """Areas of masks as they come (ComfyUI's MASK, [H, W] or [B, H, W]), by their speakers' numbers, in the size of the
    picture [H, W, C] or, without it, of the largest one.

    Raises InputError for a mask that is empty, not of this picture, or shares nearly all with another one.
    """
    warnings: list[str] = []
    read = {number: _read(mask, f"mask_{number}", warnings) for number, mask in masks.items()}
    largest = max(read.values(), key=lambda mask: mask.numel())
    height, width = largest.shape if picture is None else picture.shape[:2]
    of_what = f"the picture is {width}x{height}" if picture is not None else f"another mask is {width}x{height}"
    for number, mask in read.items():
        if not same_aspect((mask.shape[0], mask.shape[1]), (height, width)):
            raise InputError(
                f"mask_{number} is {mask.shape[1]}x{mask.shape[0]} and {of_what}: it is not of this picture. Draw it "
                "on the picture that the video is made of (Open in MaskEditor of Load Image)."
            )
    areas = torch.stack([_scaled(mask, height, width) for mask in read.values()])
    for number, area in zip(read, areas, strict=True):
        if not area.any():
            raise InputError(
                f"mask_{number} is too thin: nothing of it is left at the picture's size of {width}x{height}. Mark all "
                "of this speaker."
            )
    for (one, first), (other, second) in combinations(zip(read, areas, strict=True), 2):
        share = float((first * second).sum() / min(first.sum(), second.sum()).clamp(min=1))
        if share > INSIDE:
            raise InputError(
                f"mask_{one} and mask_{other} are the same, or one of them lies in the other ({100 * share:.0f} % of "
                "the smaller one): no voice would move what both have. Give each speaker a mask of their own."
            )
        if share > SHARED:
            warnings.append(
                f"mask_{one} and mask_{other} share {100 * share:.0f} % of the smaller one: neither voice moves what "
                "is there."
            )
    return Areas(areas, tuple(warnings))


def _scaled(mask: Tensor, height: int, width: int) -> Tensor:
    """[height, width], 0 or 1; a mask of that size already keeps its pixels."""
    scaled = torch.nn.functional.interpolate(mask[None, None], (height, width), mode="bilinear", antialias=True)
    return (scaled[0, 0] > 0.5).float()


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Of two sizes (height, width)."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) <= SAME_ASPECT + 1 / min(*one, *other)


def _read(mask: Any, name: str, warnings: list[str]) -> Tensor:
    """float32 [H, W] on the CPU, with something in it."""
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3) or not mask.numel():
        found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"{name} is {found}; a mask is [height, width] or [masks, height, width] of 0..1.")
    if mask.ndim == 3 and len(mask) > 1:
        warnings.append(f"{name} is a batch of {len(mask)} masks; the first one is used.")
    first = (mask[0] if mask.ndim == 3 else mask).detach().float().cpu()
    if not first.isfinite().all():
        raise InputError(f"{name} has values that are not numbers (NaN or infinite): check the node that made it.")
    if not (first > 0.5).any():
        raise InputError(
            f"{name} is empty ({first.shape[1]}x{first.shape[0]}, no value above 0.5). Mark where this speaker is, for "
            "instance with Open in MaskEditor of Load Image, or leave all masks out to let faces be looked for."
        )
    return first


def areas_by_faces(picture: Tensor, speakers: int) -> Areas:
    """Areas of a picture [H, W, C] around its faces, from left to right; of equal vertical parts where not enough faces
    are found, which is told. Faces beyond the speakers get areas too, so that nobody's voice moves them."""
    height, width = picture.shape[:2]
    reason = why_unchecked()
    if reason:
        told = f"Faces were not looked for: {reason}; {opencv_advice()}."
        return Areas(_parts(height, width, speakers), (told, _divided(speakers)))
    faces, uncertain = _faces(picture, speakers)
    if len(faces) < speakers:
        told = _too_few(len(faces), speakers)
        return Areas(_parts(height, width, speakers), (told, _divided(speakers)))
    faces.sort(key=lambda face: face.left + face.width / 2)
    areas = _around(faces, height, width)
    if len(faces) == speakers:
        warned = (
            ("Not all faces are certain. Look at the overlay, whether each area has its face.",) if uncertain else ()
        )
        fact = f"{speakers} faces were found; from left to right they are speakers 1 to {speakers}"
        return Areas(areas, warned, (fact,))
    told = (
        f"{len(faces)} faces were found in the picture for {speakers} voices: from left to right the first {speakers} "
        "speak, the others stay silent. Give masks to choose others."
    )
    return Areas(areas, (told,))


def _faces(picture: Tensor, speakers: int) -> tuple[list[Box], bool]:
    """The faces of people in front, and whether some are uncertain, which count where they make the number full."""
    found = find_faces(rgb_pixels(picture))
    largest = max((face.width for face in (found.faces or found.perhaps)), default=0.0)

    def in_front(faces: Iterable[Box]) -> list[Box]:
        return [face for face in faces if SECOND_FACE * largest <= face.width <= largest / SECOND_FACE]

    certain, perhaps = in_front(found.faces)[:MOST], in_front(found.perhaps)
    if len(certain) < speakers == len(certain) + len(perhaps):
        return certain + perhaps, True
    return certain, False


def _too_few(faces: int, speakers: int) -> str:
    if not faces:
        return f"No face was found in the picture for {speakers} speakers."
    if faces == 1:
        return f"One face was found in the picture for {speakers} speakers."
    return f"{faces} faces were found in the picture for {speakers} speakers."


def _divided(speakers: int) -> str:
    return (
        f"The picture is divided into {speakers} equal parts, speaker 1 on the left. If they do not fit, give each "
        "speaker a mask."
    )


def _parts(height: int, width: int, count: int) -> Tensor:
    """[count, H, W]: vertical strips."""
    strip = torch.arange(width) * count // width
    return (strip == torch.arange(count)[:, None]).float()[:, None].expand(-1, height, -1).contiguous()


def _around(faces: Sequence[Box], height: int, width: int) -> Tensor:
    """[faces, H, W]: each pixel belongs to the nearest face, measured in widths of that face."""
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    nearest = torch.stack([_squared_distance(x, y, face) for face in faces]).argmin(dim=0)
    return (nearest == torch.arange(len(faces))[:, None, None]).float()


def _squared_distance(x: Tensor, y: Tensor, face: Box) -> Tensor:
    """Of places from a face, in its widths; 0 within."""
    across = (face.left - x).clamp(min=0) + (x - face.left - face.width).clamp(min=0)
    down = (face.top - y).clamp(min=0) + (y - face.top - face.height).clamp(min=0)
    return (across**2 + down**2) / face.width**2
