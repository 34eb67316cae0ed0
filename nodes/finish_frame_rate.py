"""Finish Frame Rate: more frames a second, made between those of the video."""

from functools import partial

from comfy_api.latest import io

from liveavatar_runtime.finishing.frame_rate import MAX_FACTOR, MultiplyFrames

from ..comfy_bridge.finishing import NO_FINISHING, Finishing
from ..comfy_bridge.finishing_models import ModelBetween, interpolation_model
from ..comfy_bridge.validation import check_number
from .finish_sockets import finishing_input, finishing_output
from .search_words import search_words
from .types import CATEGORY


class FinishFrameRate(io.ComfyNode):
    """Adds a step to the finishing that makes frames between those of the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_FinishFrameRate",
            display_name="Finish Frame Rate",
            category=CATEGORY,
            description="Makes 2 to 8 frames of each one with a frame interpolation model, for smoother motion; the "
            "length and the sound stay as they are.",
            search_aliases=search_words("LiveAvatar_FinishFrameRate"),
            inputs=[
                io.Custom("INTERP_MODEL").Input("interp_model", tooltip="From Load Frame Interpolation Model."),
                io.Int.Input(
                    "factor",
                    default=2,
                    min=2,
                    max=MAX_FACTOR,
                    tooltip="Frames for each one: 2 makes 32 frames a second of 16.",
                ),
                finishing_input(),
            ],
            outputs=[finishing_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, interp_model: object, factor: int, finishing: Finishing | None = None) -> io.NodeOutput:
        check_number(cls, factor=factor)
        net, model = interpolation_model(interp_model)
        step = MultiplyFrames(partial(ModelBetween, net), factor, (net.load_device,))
        return io.NodeOutput((finishing or NO_FINISHING).and_then(step, model))
