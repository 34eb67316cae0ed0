"""ComfyUI's models as what the finishing steps call: UPSCALE_MODEL, BACKGROUND_REMOVAL and INTERP_MODEL.

They are loaded when this is called (`finishing.Finishing.loaded`); nothing here loads or unloads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import comfy.clip_model
import comfy.ldm.common_dit
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.finishing.step import FrameShape
from liveavatar_runtime.out_of_memory import is_out_of_memory

from .comfy_types import BackgroundModel, InterpolationModel, Managed, UpscaleModel
from .finishing import StepModel, told
from .memory import own_device, patcher_for

TILE, SMALLEST_TILE, OVERLAP = 512, 64, 32
"""Pixels, as ComfyUI's own node has them to begin with; the overlap hides the borders of tiles."""
VALUES_PER_PIXEL = 3 * 384
"""Of a tile, at each scale: what ComfyUI reserves for an upscale model, in float32."""
MASK_BYTES_PER_PIXEL = 3 * 1024
"""Of the picture that a background model looks at: BiRefNet was measured at 2.7 GiB for 1024x1024, on a processor in
float32, with random weights."""


@dataclass(eq=False)
class ModelEnlarger:
    """RGB [1, 3, H, W] in 0..1 -> [1, 3, H * scale, W * scale] on the model's device, in tiles. A device that is too
    full for a tile gets smaller ones from then on."""

    model: UpscaleModel
    patcher: Managed[torch.nn.Module]
    tile: int = TILE

    def __call__(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[-2:]
        device = self.patcher.load_device
        with told(f"upscaling a frame of {width}x{height} by {self.model.scale}", device), torch.inference_mode():
            given = pictures.to(device)
            while True:
                try:
                    return self._enlarged(given)
                except (RuntimeError, MemoryError) as error:
                    if self.tile // 2 < SMALLEST_TILE or not is_out_of_memory(error):
                        raise
                self.tile //= 2
                comfy.model_management.soft_empty_cache()

    def _enlarged(self, given: Tensor) -> Tensor:
        return comfy.utils.tiled_scale(
            given,
            lambda part: self.model(part.float()),
            tile_x=self.tile,
            tile_y=self.tile,
            overlap=OVERLAP,
            upscale_amount=self.model.scale,
            output_device=str(given.device),
        )


def upscale_model(given: object) -> tuple[ModelEnlarger, StepModel]:
    """Of an UPSCALE_MODEL. Raises InputError for what is none, and for models of other pictures than RGB."""
    if not (callable(given) and isinstance(getattr(given, "scale", None), int) and hasattr(given, "model")):
        raise InputError(f"upscale_model is {_named(given)}, which enlarges no pictures. Connect Load Upscale Model.")
    model = cast(UpscaleModel, given)
    channels = getattr(given, "input_channels", 3), getattr(given, "output_channels", 3)
    if channels != (3, 3):
        raise InputError(
            f"This upscale model takes {channels[0]} channels and gives {channels[1]}; frames have 3. Choose a model "
            "for colour pictures."
        )
    # ComfyUI before 0.18 moves the model itself and gives no patcher.
    own = cast("Managed[torch.nn.Module] | None", getattr(given, "patcher", None))
    patcher = own or patcher_for(model.model, own_device(), comfy.model_management.unet_offload_device())

    def working_bytes(shape: FrameShape) -> int:
        tile = min(TILE, shape.width) * min(TILE, shape.height)
        made = shape.width * shape.height * model.scale**2
        return 4 * (tile * VALUES_PER_PIXEL * max(1, model.scale) + 3 * 3 * made)

    return ModelEnlarger(model, patcher), StepModel(patcher, working_bytes)


@dataclass(eq=False)
class ModelMask:
    """RGB [1, 3, H, W] in 0..1 -> the mask [1, H, W] of what is in front, in 0..1, on the model's device."""

    model: BackgroundModel

    def __call__(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[-2:]
        model, device = self.model, self.model.patcher.load_device
        with told(f"finding the background of a frame of {width}x{height}", device), torch.inference_mode():
            seen = comfy.clip_model.clip_preprocess(
                pictures.movedim(1, -1).to(device),
                size=model.image_size,
                mean=list(model.image_mean),
                std=list(model.image_std),
                crop=False,
            )
            scores = model.model(pixel_values=seen).float()
            return interpolate(scores, (height, width), mode="bicubic").sigmoid()[:, 0]


def background_model(given: object) -> tuple[ModelMask, StepModel]:
    """Of a BACKGROUND_REMOVAL. Raises InputError for what is none."""
    needed = ("model", "patcher", "image_size", "image_mean", "image_std")
    if not all(hasattr(given, name) for name in needed):
        raise InputError(
            f"background_model is {_named(given)}, which finds no background. Connect Load Background Removal Model."
        )
    model = cast(BackgroundModel, given)
    return ModelMask(model), StepModel(model.patcher, lambda shape: MASK_BYTES_PER_PIXEL * model.image_size**2)


@dataclass(eq=False)
class ModelBetween:
    """Frames between two, in one video: what the model has found in the second frame is kept for the next pair."""

    patcher: InterpolationModel
    features: dict[str, object] = field(default_factory=dict)
    at_once: bool = True
    """Whether the device had room for all times of a pair so far; nets that look for motion once can do that."""

    def __call__(self, first: Tensor, second: Tensor, times: Sequence[float]) -> Tensor:
        """[1, 3, H, W] each -> [times, 3, H, W], on the model's device."""
        height, width = first.shape[-2:]
        model, device = self.patcher.model, self.patcher.load_device
        with told(f"making frames between two of {width}x{height}", device), torch.inference_mode():
            one, two = self._padded(first), self._padded(second)
            known = self.features.pop("next", None)
            cache = {
                "img0": model.extract_features(one) if known is None else known,
                "img1": model.extract_features(two),
            }
            self.features["next"] = cache["img1"]
            return self._made(one, two, times, cache)[..., :height, :width]

    def _made(self, one: Tensor, two: Tensor, times: Sequence[float], cache: dict[str, object]) -> Tensor:
        model = self.patcher.model
        together = getattr(model, "forward_multi_timestep", None)
        if together is not None and self.at_once:
            try:
                return together(one, two, list(times), cache=dict(cache))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.at_once = False
            comfy.model_management.soft_empty_cache()
        whole = one.new_ones(1, 1, *one.shape[-2:])
        return torch.cat([model(one, two, timestep=time * whole, cache=dict(cache)) for time in times])

    def _padded(self, frame: Tensor) -> Tensor:
        given = frame.to(device=self.patcher.load_device, dtype=self.patcher.model_dtype())
        side = getattr(self.patcher.model, "pad_align", 1)
        if side == 1:
            return given
        return comfy.ldm.common_dit.pad_to_patch_size(given, (side, side), padding_mode="reflect")


def interpolation_model(given: object) -> tuple[InterpolationModel, StepModel]:
    """Of an INTERP_MODEL. Raises InputError for what is none."""
    model = getattr(given, "model", None)
    if not hasattr(given, "load_device") or not hasattr(model, "extract_features"):
        raise InputError(
            f"interp_model is {_named(given)}, which makes no frames between two. Connect Load Frame Interpolation "
            "Model."
        )
    patcher = cast(InterpolationModel, given)

    def working_bytes(shape: FrameShape) -> int:
        return patcher.model.memory_used_forward((1, shape.height, shape.width, 3), patcher.model_dtype())

    return patcher, StepModel(cast("Managed[torch.nn.Module]", patcher), working_bytes)


def _named(given: object) -> str:
    return "nothing" if given is None else f"a {type(given).__name__}"
