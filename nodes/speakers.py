"""Speakers: two to four encoded voices, and where in the picture each of them is."""

from comfy_api.latest import io, ui

from liveavatar_runtime.audio.turns import EXAMPLE

from ..comfy_bridge.notes import Notes
from ..comfy_bridge.speakers import (
    MARGIN,
    MODES,
    TOGETHER,
    Mode,
    SpeakersInputs,
    SpeakersSettings,
    check_connected,
    check_settings,
    make_conversation,
)
from ..comfy_bridge.validation import check_number, linked_inputs, other_widgets, verdict
from .search_words import search_words
from .types import CATEGORY, AudioSocket

TURNS_TOOLTIP = (
    "Who speaks from when, one line each: a time in the video and the number of the speaker. one recording: who is "
    "heard from then on; 0:04 1 2 for two at once, 0:04 0 for nobody. one after another: when a voice begins; without "
    "a line it begins when the one before ends. together: not used. # begins a comment."
)


class Speakers(io.ComfyNode):
    """Makes one voice of several, for a picture of several people; run alone, it shows whose area is where."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_Speakers",
            display_name="Speakers",
            category=CATEGORY,
            description="Two to four people in one picture, each with a voice; shows which part of the picture each "
            "voice moves.",
            search_aliases=search_words("LiveAvatar_Speakers"),
            inputs=[
                AudioSocket.Input("voice_1", tooltip="The voice of speaker 1, from Audio Encode."),
                AudioSocket.Input(
                    "voice_2", optional=True, tooltip="The voice of speaker 2; not for mode one recording."
                ),
                AudioSocket.Input("voice_3", optional=True, tooltip="The voice of speaker 3."),
                AudioSocket.Input("voice_4", optional=True, tooltip="The voice of speaker 4."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture of the video. Without masks faces are looked for in it, from left to right.",
                ),
                io.Mask.Input("mask_1", optional=True, tooltip="Where speaker 1 is in the picture; any size."),
                io.Mask.Input("mask_2", optional=True, tooltip="Where speaker 2 is."),
                io.Mask.Input("mask_3", optional=True, tooltip="Where speaker 3 is; silent without a voice."),
                io.Mask.Input("mask_4", optional=True, tooltip="Where speaker 4 is; silent without a voice."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=TOGETHER,
                    tooltip="together: all voices begin at once, as they were recorded. one after another: each begins "
                    "when the one before ends, or at its time in turns. one recording: voice_1 holds the whole "
                    "conversation, and turns says who speaks from when.",
                ),
                io.String.Input("turns", multiline=True, default="", placeholder=EXAMPLE, tooltip=TURNS_TOOLTIP),
                io.Float.Input(
                    "mask_margin",
                    default=MARGIN,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="How far around a mask its voice reaches, as a share of the mask's longer side, so that "
                    "the head may move. Only with masks.",
                ),
            ],
            outputs=[
                AudioSocket.Output(
                    "avatar_audio", display_name="avatar_audio", tooltip="The voice of all, for DiT Sampler."
                ),
                io.Image.Output(
                    "overlay", display_name="overlay", tooltip="The picture with each speaker's area and number."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, turns: str | None = None, mask_margin: float | None = None) -> bool | str:
        (mode,) = other_widgets(cls, mode=TOGETHER)
        connected = linked_inputs(cls)

        def check(text: str) -> None:
            settings = SpeakersSettings(mode, text)
            check_settings(settings)
            if connected is not None:
                check_connected(settings, dict.fromkeys(connected, True))

        return verdict(
            cls,
            (check, turns if mode in MODES else None),
            (lambda margin: check_number(cls, mask_margin=margin), mask_margin),
        )

    @classmethod
    def execute(
        cls,
        voice_1: object,
        mode: Mode,
        turns: str,
        voice_2: object = None,
        voice_3: object = None,
        voice_4: object = None,
        image: object = None,
        mask_1: object = None,
        mask_2: object = None,
        mask_3: object = None,
        mask_4: object = None,
        mask_margin: float = MARGIN,
    ) -> io.NodeOutput:
        check_number(cls, mask_margin=mask_margin)
        voices, masks = (voice_1, voice_2, voice_3, voice_4), (mask_1, mask_2, mask_3, mask_4)
        given, notes = SpeakersInputs(by_number(voices), by_number(masks), image), Notes()
        voice, overlay = make_conversation(given, SpeakersSettings(mode, turns, mask_margin), notes)
        return notes.output(voice, overlay, shown=ui.PreviewImage(overlay, cls=cls))


def by_number(given: tuple[object, ...]) -> dict[int, object]:
    """What is connected, counted from 1."""
    return {number: one for number, one in enumerate(given, 1) if one is not None}
