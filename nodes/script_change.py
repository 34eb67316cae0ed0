"""Script Change: one more change of a script, with a prompt that was encoded already or a picture of its own."""

from fractions import Fraction

from comfy_api.latest import io

from liveavatar_runtime.duration import format_time, parse_time
from liveavatar_runtime.errors import InputError, replaced

from ..comfy_bridge.avatar_script import AvatarScript, ScriptEntry
from ..comfy_bridge.validation import verdict
from .search_words import search_words
from .types import CATEGORY, ScriptSocket


def read_start(text: str) -> Fraction:
    """Seconds; raises InputError, which names the widget, for a text that is no time."""
    with replaced(InputError, lambda error: InputError(f"start: {error}")):
        return parse_time(text)


class ScriptChange(io.ComfyNode):
    """Adds a change to a script, or begins one; for several conditionings by time, one node each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_ScriptChange",
            display_name="Script Change",
            category=CATEGORY,
            description="Adds a prompt or a picture that begins at a time to a script; several of them make a chain.",
            search_aliases=search_words("LiveAvatar_ScriptChange"),
            inputs=[
                io.String.Input(
                    "start",
                    default="0:12",
                    tooltip="When it begins, in the finished video: minutes:seconds such as 0:12 or 0:12.5, or "
                    "hours:minutes:seconds.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="The encoded prompt that holds from then on, from CLIP Text Encode.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The reference picture from then on; it may have another size than the first one.",
                ),
                ScriptSocket.Input(
                    "script",
                    optional=True,
                    tooltip="The script before this change, from Avatar Script or another Script Change.",
                ),
            ],
            outputs=[
                ScriptSocket.Output(
                    "script",
                    display_name="script",
                    tooltip="The script with this change, for DiT Sampler or the next Script Change.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, start: str | None = None) -> bool | str:
        return verdict(cls, (read_start, start))

    @classmethod
    def execute(
        cls,
        start: str,
        conditioning: object = None,
        image: object = None,
        script: AvatarScript | None = None,
    ) -> io.NodeOutput:
        at = read_start(start)
        if conditioning is None and image is None:
            raise InputError(f"nothing begins at {format_time(at)}: connect conditioning, image or both.")
        name = f"the change at {format_time(at)}"
        entry = ScriptEntry(at=at, name=name, conditioning=conditioning, image=image)
        return io.NodeOutput((script or AvatarScript()).and_then(entry))
