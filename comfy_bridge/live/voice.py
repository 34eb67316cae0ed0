"""Live Voice at work: a session is opened, whose sound comes from its page, from programs, from a file or a pipe."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.live.source import Source, SourceKind
from liveavatar_runtime.live.sources import Reading, local_source

from ..input_files import input_path
from ..notes import Notes
from ..progress import show_text
from ..voice import device_of, levelled_encoder, weights_key, weights_of_encoder
from .addresses import page_address
from .session import LiveSession, open_session

if TYPE_CHECKING:
    from liveavatar_runtime.live.voice import LiveVoice

    from ..comfy_types import AudioEncoder, Clip, Hidden

PAGE_AND_PROGRAMS = "page and programs"
VoiceSource = Literal["page and programs", "growing file", "named pipe"]
LagRule = Literal["drop silence", "wait"]
MOST_LATE_SECONDS: dict[LagRule, float] = {"drop silence": 5.0, "wait": 60.0}
"""What is later is left out, and told: a talk goes on, and a recording of one waits."""


@dataclass(frozen=True)
class VoiceInput:
    """Live Voice's widgets."""

    source: VoiceSource
    file: str
    sample_rate: int
    when_late: LagRule


def check_source(source: VoiceSource, file: str, sample_rate: int) -> None:
    """Raises InputError for a file or a pipe that cannot be read here."""
    if source == PAGE_AND_PROGRAMS:
        return
    if not file:
        raise InputError(f"source is {source}, and file is empty. Give its name in ComfyUI's input folder.")
    local_source(source, Reading(input_path(file), sample_rate), refuse)


def refuse(kind: SourceKind, rate: int, name: str) -> Source:
    """Of a reader that is never started."""
    raise InputError(f"{name} is not read yet")


def make_live_voice(
    encoder: "AudioEncoder | None", clip: "Clip | None", given: VoiceInput, hidden: "Hidden", notes: Notes
) -> "tuple[LiveVoice, str]":
    """A voice with its session, which other nodes find by it, and the address of its page. The notes say where.

    Raises InputError without an encoder, and for a source that cannot be read.
    """
    from liveavatar_runtime.live.lag import LagPolicy
    from liveavatar_runtime.live.sound import LiveSound, Options
    from liveavatar_runtime.live.voice import LiveVoice, VoiceEncoder

    if encoder is None:
        raise InputError(
            "no audio encoder: this model has none of its own. Connect Load Audio Encoder with "
            "wav2vec2_large_english_fp16.safetensors to the audio_encoder input."
        )
    check_source(given.source, given.file, given.sample_rate)
    weights = weights_of_encoder(encoder)
    encode, levelled = levelled_encoder(encoder)
    sound = LiveSound(options=Options(policy=LagPolicy(rule=given.when_late, most=MOST_LATE_SECONDS[given.when_late])))
    voice = LiveVoice(sound, VoiceEncoder(encode, weights_key(weights) if weights else "", levelled))
    session = LiveSession(voice, clip)
    if given.source != PAGE_AND_PROGRAMS:
        what = Reading(input_path(given.file), given.sample_rate)
        session.readers.append(local_source(given.source, what, sound.open_source))
        notes.tell(f"{given.source.capitalize()}: {what.path}")
    open_session(session)
    page = page_address(session)
    show_text(hidden.unique_id, f"Live page: {page}")
    notes.tell(f"Live page: {page}", f"Programs: POST {page}/voice?rate=24000 with the token {session.token}")
    if device_of(encoder).type != "cpu":
        notes.tell(f"The voice is encoded on {device_of(encoder)}, beside the sampling")
    if clip is None:
        notes.tell("clip is not connected: the prompt stays as it is while the video runs")
    return voice, page
