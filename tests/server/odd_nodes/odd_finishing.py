"""A BACKGROUND_REMOVAL of core's own class with a network small enough for a processor; core's loader takes BiRefNet
only, 220 million weights at 1024x1024 pixels. And objects that are of the wrong kind."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

KIND = "corners"


class Corners(torch.nn.Module):
    """In front is what is unlike the upper corners of the picture. `pixel_values` [B, 3, S, S]."""

    def __init__(self, config: Any, dtype: torch.dtype, device: torch.device, operations: Any) -> None:
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor([40.0, -4.0], dtype=dtype, device=device))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        side = pixel_values.shape[-1] // 8
        corners = torch.cat([pixel_values[..., :side, :side], pixel_values[..., :side, -side:]], dim=-1)
        unlike = (pixel_values - corners.mean((-2, -1), keepdim=True)).abs().amax(1, keepdim=True)
        return unlike * self.sharpness[0] + self.sharpness[1]


def background_model() -> Any:
    import comfy.bg_removal_model as core

    known: dict[str, Any] = core.BG_REMOVAL_MODELS
    known[KIND] = Corners
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({"model_type": KIND, "image_size": 128}))
        return core.BackgroundRemovalModel(str(path))


class OddBackground:
    CATEGORY, FUNCTION = "LiveAvatar/tests", "run"
    RETURN_TYPES = ("BACKGROUND_REMOVAL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> tuple[Any]:
        return (background_model(),)


class OddFinishingModel:
    """Something else than a model, over the sockets of all three."""

    CATEGORY, FUNCTION = "LiveAvatar/tests", "run"
    RETURN_TYPES = ("UPSCALE_MODEL", "BACKGROUND_REMOVAL", "INTERP_MODEL")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> tuple[Any, Any, Any]:
        return "a model", torch.nn.Linear(1, 1), {"model": None}


NODE_CLASS_MAPPINGS = {"OddBackground": OddBackground, "OddFinishingModel": OddFinishingModel}
