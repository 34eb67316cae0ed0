"""Live Voice: a voice that comes while it is spoken, in place of Load Audio and Audio Encode."""

from typing import get_args

from comfy_api.latest import io

from ..comfy_bridge.comfy_types import AudioEncoder, Clip
from ..comfy_bridge.live.voice import LagRule, VoiceInput, VoiceSource, check_source, make_live_voice
from ..comfy_bridge.notes import Notes
from ..comfy_bridge.validation import other_widgets, verdict
from .search_words import search_words
from .types import CATEGORY, AudioSocket


class LiveVoice(io.ComfyNode):
    """Opens a live session, whose voice comes from its page, from programs, from a growing file or a named pipe."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_LiveVoice",
            display_name="Live Voice",
            category=CATEGORY,
            description="A voice that comes while it is spoken: from the microphone on the live page, from programs, "
            "from a file that is still written. For DiT Sampler and Live Out.",
            search_aliases=search_words("LiveAvatar_LiveVoice"),
            inputs=[
                io.AudioEncoder.Input(
                    "audio_encoder", tooltip="wav2vec2 of Load Avatar Model or of Load Audio Encoder."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Encodes a prompt that is given while the video runs. Without it, the prompt stays as it "
                    "is.",
                ),
                io.Combo.Input(
                    "source",
                    options=list(get_args(VoiceSource)),
                    default="page and programs",
                    optional=True,
                    tooltip="page and programs: the microphone on the live page, and what programs post. growing file, "
                    "named pipe: also sound from there, as it is written.",
                ),
                io.String.Input(
                    "file",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="growing file: its name in the input folder (WAV or raw 16 bit samples). named pipe: the "
                    "name that the pipe gets there; not on Windows.",
                ),
                io.Int.Input(
                    "sample_rate",
                    default=24000,
                    min=8000,
                    max=192000,
                    optional=True,
                    advanced=True,
                    tooltip="Samples a second of raw sound in file; a WAV file tells its own.",
                ),
                io.Combo.Input(
                    "when_late",
                    options=list(get_args(LagRule)),
                    default="drop silence",
                    optional=True,
                    advanced=True,
                    tooltip="When the video falls behind the voice. drop silence: pauses become shorter until it has "
                    "caught up, and it is never more than 5 s late; wait: all is said, up to a minute late.",
                ),
            ],
            outputs=[
                AudioSocket.Output("avatar_audio", display_name="avatar_audio", tooltip="The voice, for DiT Sampler."),
                io.String.Output(
                    "page",
                    display_name="page",
                    tooltip="Address of the live page, with the picture, the microphone and the controls.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        source, rate = other_widgets(cls, source="page and programs", sample_rate=24000)
        known = file is not None and source in get_args(VoiceSource)
        return verdict(cls, (lambda given: check_source(*given), (source, file, rate) if known else None))

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        """Never equal: each run is another session."""
        return float("nan")

    @classmethod
    def execute(
        cls,
        audio_encoder: AudioEncoder | None,
        clip: Clip | None = None,
        source: "VoiceSource" = "page and programs",
        file: str = "",
        sample_rate: int = 24000,
        when_late: "LagRule" = "drop silence",
    ) -> io.NodeOutput:
        notes = Notes()
        given = VoiceInput(source, file, sample_rate, when_late)
        voice, page = make_live_voice(audio_encoder, clip, given, cls.hidden, notes)
        return notes.output(voice, page)
