"""Finish Colours: frames with the colours of a picture, all the way."""

from comfy_api.latest import io

from liveavatar_runtime.finishing.colours import MatchColours
from liveavatar_runtime.media.images import read_picture

from ..comfy_bridge.finishing import NO_FINISHING, Finishing
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.validation import check_number, verdict
from .finish_sockets import finishing_input, finishing_output
from .search_words import search_words
from .types import CATEGORY


class FinishColours(io.ComfyNode):
    """Adds a step to the finishing that keeps colours and contrast those of a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_FinishColours",
            display_name="Finish Colours",
            category=CATEGORY,
            description="Gives each frame the colours and the contrast of a picture, so that a long video does not "
            "drift away from it.",
            search_aliases=search_words("LiveAvatar_FinishColours"),
            inputs=[
                io.Image.Input("image", tooltip="The picture whose colours count: the one of DiT Sampler."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 leaves the frames as they are, 1 gives them the picture's colours.",
                ),
                finishing_input(),
            ],
            outputs=[finishing_output()],
            hidden=[io.Hidden.unique_id],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, strength: float | None = None) -> bool | str:
        return verdict(cls, (lambda value: check_number(cls, strength=value), strength))

    @classmethod
    def execute(cls, image: object, strength: float, finishing: Finishing | None = None) -> io.NodeOutput:
        check_number(cls, strength=strength)
        picture, changes = read_picture(image)
        notes = Notes()
        notes.warn(*changes)
        return notes.output((finishing or NO_FINISHING).and_then(MatchColours(picture, strength)))
