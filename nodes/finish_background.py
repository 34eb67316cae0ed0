"""Finish Background: frames whose background is cut out, or replaced."""

from comfy_api.latest import io

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.finishing.background import ReplaceBackground, read_colour
from liveavatar_runtime.media.images import read_picture

from ..comfy_bridge.finishing import NO_FINISHING, Finishing
from ..comfy_bridge.finishing_models import background_model as read_model
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.validation import linked_inputs, other_widgets, verdict
from .finish_sockets import finishing_input, finishing_output
from .search_words import search_words
from .types import CATEGORY

TRANSPARENT, COLOUR, IMAGE = "transparent", "colour", "image"


class FinishBackground(io.ComfyNode):
    """Adds a step to the finishing that finds the background of each frame and takes it away."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_FinishBackground",
            display_name="Finish Background",
            category=CATEGORY,
            description="Cuts out the background of each frame with a background removal model: transparent, a colour, "
            "or another picture behind the avatar.",
            search_aliases=search_words("LiveAvatar_FinishBackground"),
            inputs=[
                io.Custom("BACKGROUND_REMOVAL").Input(
                    "background_model", tooltip="From Load Background Removal Model."
                ),
                io.Combo.Input(
                    "behind",
                    options=[TRANSPARENT, COLOUR, IMAGE],
                    default=TRANSPARENT,
                    tooltip="What is behind the avatar. transparent needs codec vp9 or ffv1 in Online VAE Decode.",
                ),
                io.String.Input(
                    "colour",
                    default="#00ff00",
                    tooltip="For behind colour: # and six hexadecimal digits, such as #00ff00 for green.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="For behind image: the picture, which is cropped to the video."
                ),
                finishing_input(),
            ],
            outputs=[finishing_output()],
            hidden=[io.Hidden.unique_id],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, colour: str | None = None) -> bool | str:
        (behind,) = other_widgets(cls, behind=TRANSPARENT)
        linked = linked_inputs(cls)
        given = None if behind is None or linked is None else (behind, "image" in linked)
        return verdict(cls, (read_colour, colour), (lambda found: check_picture(*found), given))

    @classmethod
    def execute(
        cls,
        background_model: object,
        behind: str,
        colour: str,
        image: object = None,
        finishing: Finishing | None = None,
    ) -> io.NodeOutput:
        check_picture(behind, image is not None)
        notes = Notes()
        laid = None if behind == TRANSPARENT else read_colour(colour)
        if image is not None:
            laid, changes = read_picture(image)
            notes.warn(*changes)
        mask, model = read_model(background_model)
        step = ReplaceBackground(mask, laid, (model.patcher.load_device,))
        return notes.output((finishing or NO_FINISHING).and_then(step, model))


def check_picture(behind: str, has_image: bool) -> None:
    """Raises InputError for a picture that is missing, and for one that would not be used."""
    if behind == IMAGE and not has_image:
        raise InputError("behind is image, and no picture is connected. Connect one to image, or choose another.")
    if behind != IMAGE and has_image:
        raise InputError(f"image is connected, but behind is {behind}. Set behind to image, or disconnect image.")
