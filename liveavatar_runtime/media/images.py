"""Pictures on their way into the model and frames on their way out of it."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ..errors import InputError, MachineError
from ..reading import readable

if TYPE_CHECKING:
    from PIL.Image import Image

FitMode = Literal["cover", "pad"]
FIT_MODES: tuple[FitMode, ...] = ("cover", "pad")
MIN_PICTURE_SIDE = 16
_SCAN_STEPS = 100
_OVERSHOOT = 0.25
"""Sharp resampling leaves 0..1 by less."""
_BRIGHTEST_FLOAT = 16.0
"""Above, values are no bright light in 0..1."""


def fit_size(height: int, width: int, area: int, enlarge: bool = True, multiple: int = 64) -> tuple[int, int]:
    """The (height, width) of the video for a picture of that size: its aspect within `area` pixels, sides multiples.

    A scale s makes the picture int(h s) x int(w s), and both sides are then raised to multiples m. The result is the
    largest of 100 scales, evenly spaced downwards, whose raised size fits in the area. With a = h w,
    b = (m - 1)(h + w) and c = (m - 1)^2 - area, the scan starts at sqrt(area / a), which fits when nothing needs
    raising, and ends at (sqrt(b^2 - 2 a c) - b) / 2a. That is below the root of a s^2 + b s + c, the scale which fits
    even when both sides are raised by m - 1 (its square root has 4 a c).

    This is the original's scan. An exact search for the largest scale gives the next bigger size in 14 of the 520 rows
    of the golden table; we give the sizes the original gives.

    `enlarge` is off in the original: a picture smaller than the area then keeps its size, only raised to multiples
    (scales 1 to 0.1 are scanned). With it on, the area alone decides.

    Raises InputError for sides below 1, an area below multiple x multiple and pictures too long for the area.
    """
    if height < 1 or width < 1:
        raise InputError(f"The picture is {width}x{height} pixels; both sides must be at least 1.")
    if area < multiple * multiple:
        raise InputError(
            f"The video's area is {area} pixels; sides are multiples of {multiple}, so it must be at least "
            f"{multiple * multiple} ({multiple}x{multiple}). Ask for a larger width or height."
        )
    pixels = height * width
    if enlarge or pixels > area:
        slope, constant = (multiple - 1) * (height + width), (multiple - 1) ** 2 - area
        largest = math.sqrt(area / pixels)
        smallest = (-slope + math.sqrt(slope**2 - 2 * pixels * constant)) / (2 * pixels)
    else:
        largest, smallest = 1.0, 0.1
    for step in range(_SCAN_STEPS):
        scale = largest - (largest - smallest) * step / _SCAN_STEPS
        fitted_height = _raised(int(height * scale), multiple)
        fitted_width = _raised(int(width * scale), multiple)
        if fitted_height * fitted_width <= area:
            return fitted_height, fitted_width
    raise InputError(
        f"The picture is {width}x{height} pixels, too long and narrow for a video of {area} pixels with sides that are "
        f"multiples of {multiple}. Crop it, or ask for a larger width or height."
    )


def _raised(side: int, multiple: int) -> int:
    """The next multiple; a side that vanished keeps one."""
    return max(1, -(-side // multiple)) * multiple


def read_picture(image: object) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The picture [H, W, C] that a user gave, of floats in 0..1, and what was done to it, in words for the user.

    image: tensor or NumPy array, [H, W, C] or [B, H, W, C] as in ComfyUI's IMAGE, of which the first is used; C = 1
        grey, 3 RGB, 4 RGB with straight alpha. Floats of any width in 0..1, or integers up to 255 (uint16: 65535),
        which are scaled. Floats keep their values; `fit_picture` clips them.

    Raises InputError for other shapes and types, an empty batch and values that are not finite.
    """
    if isinstance(image, np.ndarray) and image.dtype.kind in "fiub":
        image = torch.from_numpy(np.ascontiguousarray(image))
    if not isinstance(image, torch.Tensor):
        raise InputError(f"The image is a {type(image).__name__}; it must be an IMAGE. Connect Load Image.")
    if image.ndim not in (3, 4) or not image.numel() or image.shape[-1] not in (1, 3, 4):
        raise InputError(
            f"The image is a tensor of shape {list(image.shape)}; it must be [batch, height, width, channels] with 1 "
            "(grey), 3 (RGB) or 4 (RGBA) channels."
        )
    changes = []
    if image.ndim == 4:
        if image.shape[0] > 1:
            changes.append(f"{image.shape[0]} pictures were given; the first one is used.")
        image = image[0]
    picture, levelled = _unit_range(image)
    if picture.shape[2] == 4 and bool((picture[..., 3] < 1).any()):
        changes.append("The picture is transparent in parts; white is laid behind them.")
    return picture, (*changes, *levelled)


def picture_of_file(path: Path) -> torch.Tensor:
    """The picture in a file as it is shown, [H, W, 3 or 4] of 0..1. Raises InputError where there is none."""
    from PIL import Image, ImageOps

    with readable(path, "a picture"), Image.open(path) as opened:
        shown = ImageOps.exif_transpose(opened)
        pixels = np.asarray(shown.convert("RGBA" if shown.has_transparency_data else "RGB"))
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def _unit_range(picture: torch.Tensor) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The picture in floats of 0..1, and words about values that cannot be meant so."""
    if not picture.is_floating_point():
        top = 1 if picture.dtype == torch.bool else 65535 if picture.dtype == torch.uint16 else 255
        picture = picture.to(torch.int32)
        low, high = int(picture.min()), int(picture.max())
        if low < 0 or high > top:
            raise InputError(f"The image's values are whole numbers from {low} to {high}; they must be 0 to {top}.")
        return picture.float() / top, ()
    if not picture.isfinite().all():
        raise InputError("The picture has values that are not numbers (NaN or infinity): check the node that made it.")
    low, high = float(picture.min()), float(picture.max())
    if _BRIGHTEST_FLOAT < high <= 255 and low >= 0:
        return picture.float() / 255, (f"The picture's values reach {high:g}: they were read as 0 to 255.",)
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        said = f"The picture's values go from {low:.2f} to {high:.2f}; below 0 is cut to black and above 1 to white."
        return picture, (said,)
    return picture, ()


def fit_picture(
    picture: torch.Tensor,
    height: int,
    width: int,
    mode: FitMode = "cover",
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> torch.Tensor:
    """The picture as the model reads it: float32 [3, height, width] in -1..1, on the CPU.

    picture: float [H, W, C] in 0..1 (clipped), C = 1 grey, 3 RGB, 4 RGB with straight alpha, which is laid over
    `background` (RGB in 0..1, white by default). Values are rounded to 8 bits, as in a PNG, and resampled by Pillow
    (bilinear, antialiased), which is what the original does.

    mode "cover": the largest centred part with the aspect of the result, so there are no bars.
    mode "pad": the original's; the short side becomes min(height, width), then the centre is cut out, with black
    bars where the picture ends.

    Raises InputError for other shapes and types, values that are not finite, and pictures below 16x16.
    """
    if mode not in FIT_MODES:
        raise InputError(f"The fit mode is {mode!r}; it must be one of {', '.join(FIT_MODES)}.")
    pixels = _to_pillow(_checked(picture), background)
    return _as_read(_cover(pixels, height, width) if mode == "cover" else _pad(pixels, height, width))


def cover_pixels(pixels: np.ndarray, height: int, width: int) -> torch.Tensor:
    """A picture uint8 RGB [H, W, 3] as `fit_picture` gives it with mode "cover"."""
    from PIL import Image

    return _as_read(_cover(Image.fromarray(np.ascontiguousarray(pixels), "RGB"), height, width))


def _as_read(fitted: "Image") -> torch.Tensor:
    """float32 [3, H, W] in -1..1."""
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float().div(255).mul(2).sub(1).contiguous()


def fit_mask(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A mask [H, W] of 0..1 where `fit_picture` (cover) puts a picture of that aspect: float32 [height, width]."""
    from PIL import Image

    values = mask.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    return (
        torch.from_numpy(np.array(_cover(Image.fromarray(np.ascontiguousarray(values)), height, width))).float() / 255
    )


def rgb_pixels(picture: torch.Tensor) -> np.ndarray:
    """A picture as of `read_picture`, as uint8 RGB [H, W, 3], transparent parts on white."""
    return np.array(_to_pillow(_checked(picture), (1.0, 1.0, 1.0)))


def _checked(picture: torch.Tensor) -> torch.Tensor:
    if picture.ndim != 3 or picture.shape[2] not in (1, 3, 4) or not picture.is_floating_point():
        raise InputError(
            f"The picture is {str(picture.dtype).removeprefix('torch.')} {list(picture.shape)}; it must be float "
            f"[height, width, channels] in 0..1 with 1 (grey), 3 (RGB) or 4 (RGBA) channels."
        )
    height, width = picture.shape[:2]
    if min(height, width) < MIN_PICTURE_SIDE:
        raise InputError(
            f"The picture is {width}x{height} pixels; it must be at least {MIN_PICTURE_SIDE}x{MIN_PICTURE_SIDE}. "
            f"Load the portrait itself, some hundred pixels high."
        )
    if not torch.isfinite(picture).all():
        raise InputError("The picture has values that are not numbers (NaN or infinity): check the node that made it.")
    return picture.detach().float().cpu().clamp(0, 1)


def _to_pillow(picture: torch.Tensor, background: tuple[float, float, float]) -> "Image":
    """Grey expanded and alpha laid over the background, as an 8 bit RGB image."""
    from PIL import Image

    if picture.shape[2] == 4:
        color, alpha = picture[..., :3], picture[..., 3:]
        picture = color * alpha + torch.tensor(background, dtype=torch.float32) * (1 - alpha)
    rgb = picture.expand(-1, -1, 3).mul(255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(rgb.numpy()), "RGB")


def covered_part(width: int, height: int, video_width: int, video_height: int) -> tuple[float, float, float, float]:
    """The largest centred part of a picture that has the video's aspect: left, top, width and height in its pixels."""
    part_width, part_height = float(width), float(height)
    if width * video_height > height * video_width:
        part_width = height * video_width / video_height
    else:
        part_height = width * video_height / video_width
    return (width - part_width) / 2, (height - part_height) / 2, part_width, part_height


def _cover(pixels: "Image", height: int, width: int) -> "Image":
    from PIL import Image

    left, top, *_ = covered_part(pixels.width, pixels.height, width, height)
    box = (left, top, pixels.width - left, pixels.height - top)
    return pixels.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _pad(pixels: "Image", height: int, width: int) -> "Image":
    from PIL import Image

    short = min(height, width)
    if pixels.width <= pixels.height:
        size = (short, int(short * pixels.height / pixels.width))
    else:
        size = (int(short * pixels.width / pixels.height), short)
    resized = pixels.resize(size, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(resized, (_centre(width, size[0]), _centre(height, size[1])))
    return canvas


def _centre(outer: int, inner: int) -> int:
    """Where the inner side starts in the outer one, rounded as the original's padding and cropping do."""
    return (outer - inner) // 2 if inner < outer else -round((inner - outer) / 2)


def to_uint8_frames(pixels: torch.Tensor) -> torch.Tensor:
    """Decoded pixels [3, T, H, W] in -1..1 (clipped), or [4, T, H, W] with alpha, as frames for a video file, uint8
    [T, H, W, 3 or 4] on the CPU.

    Raises MachineError when the decoder gave values that are not finite.
    """
    return _unit_frames(pixels).mul(255).round().to(torch.uint8).cpu().contiguous()


def to_uint16_frames(pixels: torch.Tensor) -> torch.Tensor:
    """As `to_uint8_frames` with 0..65535, uint16, for files of more than 8 bits."""
    return _unit_frames(pixels).mul(65535).round().to(torch.int32).to(torch.uint16).cpu().contiguous()


def to_float_frames(pixels: torch.Tensor) -> torch.Tensor:
    """Decoded pixels [3, T, H, W] in -1..1 (clipped) as a ComfyUI IMAGE, float32 [T, H, W, 3] in 0..1 on the CPU;
    without alpha, where there is any.

    Raises MachineError when the decoder gave values that are not finite.
    """
    return _unit_frames(pixels[:3]).cpu().contiguous()


def _unit_frames(pixels: torch.Tensor) -> torch.Tensor:
    if pixels.ndim != 4 or pixels.shape[0] not in (3, 4):
        raise InputError(f"The decoded pixels are {list(pixels.shape)}; frames need [3, frames, height, width].")
    if not torch.isfinite(pixels).all():
        raise MachineError(
            "The VAE decoded values that are not numbers, which would be black frames. Its precision is too low for "
            "these latents: run the VAE in bfloat16 or float32 (ComfyUI: --bf16-vae or --fp32-vae)."
        )
    return pixels.detach().float().add(1).div(2).clamp(0, 1).permute(1, 2, 3, 0)
