"""Avatar Script: what happens when, one line each, or as JSON."""

from comfy_api.latest import io

from liveavatar_runtime.duration import format_duration
from liveavatar_runtime.sampling.script_text import as_json, read_lines

from ..comfy_bridge.avatar_script import ScriptInputs, check_connected, make_script
from ..comfy_bridge.comfy_types import Clip
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.validation import linked_inputs, verdict
from .search_words import search_words
from .types import CATEGORY, ScriptSocket

EXAMPLE = """0:00 A friendly person talks to the camera in front of a blue wall.
0:12 ... The person laughs."""
SCRIPT_TOOLTIP = (
    "One line each: the time in the finished video, then a prompt, which holds until the next one; ... at its "
    "beginning stands for the last prompt that is written in full. [silence 1.5], [seed 7], [picture 2] and "
    "[motion 0.8] before a prompt or alone. A silence moves what is said after it; all times count with the silences "
    "in. # begins a comment. JSON works too."
)


class AvatarScript(io.ComfyNode):
    """Reads a script: prompts, pictures, seeds and motion strength by time, and silences in the voice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_AvatarScript",
            display_name="Avatar Script",
            category=CATEGORY,
            description="Directs the video: prompts, pictures, seeds and motion strength by time, and seconds of "
            "silence in the voice.",
            search_aliases=search_words("LiveAvatar_AvatarScript"),
            inputs=[
                io.String.Input("script", multiline=True, default=EXAMPLE, tooltip=SCRIPT_TOOLTIP),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder for the prompts, as for CLIP Text Encode. Not needed without prompts.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The voice, for silences: they are put in, and the video grows by them.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The pictures of [picture 1], [picture 2], ... as a batch.",
                ),
            ],
            outputs=[
                ScriptSocket.Output("script", display_name="script", tooltip="The script, for DiT Sampler."),
                io.Audio.Output(
                    "audio", display_name="audio", tooltip="The voice with the silences in it, for Audio Encode."
                ),
                io.String.Output("json", display_name="json", tooltip="The same script as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, script: str | None = None) -> bool | str:
        connected = linked_inputs(cls)

        def check(text: str) -> None:
            lines = read_lines(text)
            if connected is not None:
                check_connected(lines, connected)

        return verdict(cls, (check, script))

    @classmethod
    def execute(
        cls, script: str, clip: Clip | None = None, audio: object = None, images: object = None
    ) -> io.NodeOutput:
        lines, notes = read_lines(script), Notes()
        if not lines:
            notes.warn("The script is empty, so nothing changes in the course of the video.")
        made, sound = make_script(lines, ScriptInputs(clip, audio, images), notes)
        if lines:
            notes.tell(f"{len(lines)} lines, the last one at {format_duration(lines[-1].at)}")
        return notes.output(made, sound, as_json(lines))
