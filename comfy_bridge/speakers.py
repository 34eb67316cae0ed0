"""Speakers at work: several encoded voices become one, which knows when and where in the picture each is heard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor

from liveavatar_runtime.audio.conversation import MAX_SPEAKERS, Conversation, Speaker, mixed
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.turns import EXAMPLE, Turn, read_turns, spans_of, starts_of
from liveavatar_runtime.audio.voice import Voice
from liveavatar_runtime.duration import format_duration, format_time
from liveavatar_runtime.errors import InputError

from .notes import Notes

if TYPE_CHECKING:
    from liveavatar_runtime.media.areas import Areas

Mode = Literal["together", "one after another", "one recording"]
MODES: tuple[Mode, ...] = get_args(Mode)
TOGETHER, ONE_AFTER_ANOTHER, ONE_RECORDING = MODES
MARGIN = 0.1
"""The original's."""


@dataclass(frozen=True)
class SpeakersSettings:
    """The node's widgets."""

    mode: Mode = TOGETHER
    turns: str = ""
    mask_margin: float = MARGIN


@dataclass(frozen=True, eq=False)
class SpeakersInputs:
    """What is connected, by speaker's number: voices and masks; the picture as it comes, None without one."""

    voices: Mapping[int, object]
    masks: Mapping[int, object] = field(default_factory=dict)
    image: object = None


def check_settings(settings: SpeakersSettings) -> tuple[Turn, ...]:
    """The turns that the text tells. Raises InputError for a text that does not suit the mode."""
    if settings.mode not in MODES:
        raise InputError(f"mode is {settings.mode!r}; allowed are {', '.join(MODES)}.")
    turns = read_turns(settings.turns)
    if settings.mode == ONE_RECORDING and not turns:
        example = EXAMPLE.replace("\n", " and ")
        raise InputError(
            "turns is empty, and in one recording it says who speaks from when. Write a line for each change, such as "
            f"{example}."
        )
    return turns


def check_connected(settings: SpeakersSettings, connected: Mapping[str, bool]) -> None:
    """Raises InputError when what is connected does not suit the mode. `connected`: of each input of the node."""
    voices = [number for number in range(1, MAX_SPEAKERS + 1) if connected.get(f"voice_{number}")]
    masks = [number for number in range(1, MAX_SPEAKERS + 1) if connected.get(f"mask_{number}")]
    if voices != list(range(1, len(voices) + 1)):
        raise InputError(
            f"voice_{voices[-1]} is connected and voice_{len(voices)} is not. Connect the voices from voice_1 on, "
            "without a gap."
        )
    turns = check_settings(settings)
    if settings.mode == ONE_RECORDING and len(voices) > 1:
        raise InputError(
            f"mode is {ONE_RECORDING}, which takes one voice, and {len(voices)} are connected. Disconnect all but "
            f"voice_1, or set mode to {TOGETHER} or {ONE_AFTER_ANOTHER}."
        )
    if settings.mode != ONE_RECORDING and len(voices) < 2:
        raise InputError(
            f"mode is {settings.mode}, which takes two voices or more, and one is connected. Connect voice_2; for one "
            f"recording of several people set mode to {ONE_RECORDING}."
        )
    speaking = max(_named(turns), default=0) if settings.mode == ONE_RECORDING else len(voices)
    if masks and masks != list(range(1, max(speaking, len(masks)) + 1)):
        missing = next(number for number in range(1, MAX_SPEAKERS + 2) if number not in masks)
        raise InputError(
            f"mask_{missing} is missing. Connect a mask for each of the {max(speaking, masks[-1])} speakers, or none, "
            "so that faces are looked for in image."
        )
    if not masks and not connected.get("image"):
        raise InputError(
            "neither masks nor image are connected, so nobody knows where the speakers are. Connect the picture of the "
            "video to image."
        )
    if max(speaking, len(masks)) < 2:
        raise InputError(
            "turns names one speaker only. Name at least two, or connect the voice to DiT Sampler without this node."
        )


def _named(turns: Sequence[Turn]) -> set[int]:
    return {speaker for turn in turns for speaker in turn.speakers}


def make_conversation(given: SpeakersInputs, settings: SpeakersSettings, notes: Notes) -> tuple[Conversation, Tensor]:
    """The voice of all, and the picture [1, H, W, 3] with the speakers' areas.

    Raises InputError for what does not fit together, before anything is encoded.
    """
    from liveavatar_runtime.media.areas_picture import draw_areas
    from liveavatar_runtime.media.images import read_picture

    numbers = {f"voice_{number}": True for number in given.voices} | {f"mask_{number}": True for number in given.masks}
    check_connected(settings, numbers | {"image": given.image is not None})
    voices = [_one_voice(voice, number) for number, voice in sorted(given.voices.items())]
    picture = None
    if given.image is not None:
        picture, changes = read_picture(given.image)
        notes.warn(*changes)
    turns = check_settings(settings)
    speakers, tracks = _speakers(voices, settings.mode, turns)
    areas = _areas(given, picture, len(speakers))
    notes.warn(*areas.warnings)
    silent = len(areas.masks) - len(speakers)
    speakers += [Speaker(None)] * silent
    margin = settings.mask_margin if given.masks else 0.0
    waveform, rate = mixed(tracks)
    conversation = Conversation(tuple(speakers), areas.masks, waveform, rate, _silence(voices[0]), margin)
    _tell(conversation, turns, settings.mode, notes)
    notes.tell(*areas.facts)
    return conversation, draw_areas(picture, areas.masks)


def _one_voice(voice: object, number: int) -> AvatarAudio:
    if isinstance(voice, Conversation):
        raise InputError(
            f"voice_{number} is the voice of several speakers already. Connect the voices of Audio Encode, each to an "
            "input of its own."
        )
    if isinstance(voice, Voice) and voice.is_live:
        raise InputError(
            f"voice_{number} is a live voice, and Speakers needs recorded ones, whose length is known. Connect "
            "Live Voice to DiT Sampler, for one speaker."
        )
    assert isinstance(voice, AvatarAudio), voice
    return voice


def _speakers(
    voices: Sequence[AvatarAudio], mode: Mode, turns: Sequence[Turn]
) -> tuple[list[Speaker], list[tuple[AvatarAudio, Fraction]]]:
    """Who speaks, and the tracks that make the sound."""
    if mode == ONE_RECORDING:
        (recording,) = voices
        numbers = range(1, max(_named(turns), default=1) + 1)
        return [Speaker(recording, turns=spans_of(turns, number)) for number in numbers], [(recording, Fraction(0))]
    starts = [Fraction(0)] * len(voices)
    if mode == ONE_AFTER_ANOTHER:
        starts = starts_of(turns, [voice.duration for voice in voices])
    tracks = list(zip(voices, starts, strict=True))
    return [Speaker(*track) for track in tracks], tracks


def _silence(voice: AvatarAudio) -> Tensor:
    """What a silent speaker hears. The encoder of this voice is that of all, which `Conversation` checks."""
    assert voice.silence is not None, "Audio Encode gives it"
    return voice.silence.frame


def _areas(given: SpeakersInputs, picture: Tensor | None, speakers: int) -> "Areas":
    from liveavatar_runtime.media.areas import areas_by_faces, areas_by_masks

    if given.masks:
        return areas_by_masks(dict(sorted(given.masks.items())), picture)
    assert picture is not None
    return areas_by_faces(picture, speakers)


def _tell(conversation: Conversation, turns: Sequence[Turn], mode: Mode, notes: Notes) -> None:
    """Who is heard when, and what is left out of it."""
    length, ends = conversation.duration, format_duration(conversation.duration)
    silent = sum(speaker.audio is None for speaker in conversation.speakers)
    notes.tell(f"{conversation.actors} speakers, {ends}")
    if silent:
        notes.tell(f"Of them {silent} without a voice: they stay silent")
    if mode == TOGETHER and turns:
        notes.warn(f"turns is not used: with mode {TOGETHER} all voices begin at 0:00, as they were recorded.")
    if mode == ONE_AFTER_ANOTHER:
        starts = (
            f"{number} at {format_time(one.start)}" for number, one in enumerate(conversation.speakers, 1) if one.audio
        )
        notes.tell(f"Voices begin: {', '.join(starts)}")
    if mode == ONE_RECORDING:
        for turn in turns:
            if turn.at >= length:
                notes.warn(f"{turn.name} ({turn}) is behind the end of the voice ({ends}) and has no effect.")
        if turns[0].at > 0:
            notes.warn(
                f"Nobody speaks before {format_time(turns[0].at)}, where turns begins: what is heard there moves no "
                "mouth."
            )
