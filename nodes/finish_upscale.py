"""Finish Upscale: frames enlarged by an upscale model before they are written."""

from comfy_api.latest import io

from liveavatar_runtime.finishing.upscale import MAX_SIDE, Upscale, check_side

from ..comfy_bridge.finishing import NO_FINISHING, Finishing
from ..comfy_bridge.finishing_models import upscale_model as read_model
from ..comfy_bridge.validation import check_number, other_widgets, verdict
from .finish_sockets import finishing_input, finishing_output
from .search_words import search_words
from .types import CATEGORY


class FinishUpscale(io.ComfyNode):
    """Adds a step to the finishing that enlarges each frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_FinishUpscale",
            display_name="Finish Upscale",
            category=CATEGORY,
            description="Enlarges each frame with an upscale model before it is written, while the video is made.",
            search_aliases=search_words("LiveAvatar_FinishUpscale"),
            inputs=[
                io.UpscaleModel.Input("upscale_model", tooltip="From Load Upscale Model."),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=MAX_SIDE,
                    step=2,
                    tooltip="Of the finished frames; 0 follows from height, and with both 0 the size is the model's.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=MAX_SIDE,
                    step=2,
                    tooltip="Of the finished frames; 0 follows from width. With both given the middle is kept.",
                ),
                finishing_input(),
            ],
            outputs=[finishing_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, width: int | None = None) -> bool | str:
        (height,) = other_widgets(cls, height=0)
        return verdict(
            cls, (lambda side: check_side("width", side), width), (lambda side: check_side("height", side), height)
        )

    @classmethod
    def execute(
        cls, upscale_model: object, width: int, height: int, finishing: Finishing | None = None
    ) -> io.NodeOutput:
        check_number(cls, width=width, height=height)
        check_side("width", width)
        check_side("height", height)
        enlarger, model = read_model(upscale_model)
        devices = (model.patcher.load_device,)
        step = Upscale(enlarger, enlarger.model.scale, width, height, devices)
        return io.NodeOutput((finishing or NO_FINISHING).and_then(step, model))
