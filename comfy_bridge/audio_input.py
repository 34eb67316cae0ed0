"""The sound of an AUDIO, whoever made it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from liveavatar_runtime.errors import InputError

if TYPE_CHECKING:
    from liveavatar_runtime.audio.waveform import Sound

NO_SOUND = "this video has no sound: connect a voice, from Load Audio for instance."
PARTS = ("waveform", "sample_rate")


def read_audio(audio: object) -> "Sound":
    """The sound of an AUDIO, also of one that is loaded when it is asked for its parts.

    Raises InputError when there is none, which is what nodes that load videos give for a silent one, and as
    `read_sound` does.
    """
    from liveavatar_runtime.audio.waveform import read_sound

    if audio is None:
        raise InputError(NO_SOUND)
    waveform, rate = _parts(audio)
    if waveform is None:
        raise InputError(NO_SOUND)
    return read_sound(waveform, rate)


def _parts(audio: object) -> tuple[object, object]:
    # Tensors and arrays take any index and fail in their own words.
    if isinstance(audio, (str, bytes, list, tuple)) or hasattr(audio, "ndim") or not hasattr(audio, "__getitem__"):
        raise InputError(f"the audio is a {type(audio).__name__}; it must be an AUDIO. Connect Load Audio.")
    if isinstance(audio, dict):
        if missing := [name for name in PARTS if name not in audio]:
            given = ", ".join(map(str, audio)) or "nothing"
            raise InputError(f"the audio holds {given} and no {' or '.join(missing)}. Connect Load Audio.")
        return audio["waveform"], audio["sample_rate"]
    # Other packs' objects run a program here, which fails in its own way, for a video without sound among others.
    parts = cast(Mapping[str, object], audio)
    try:
        return parts["waveform"], parts["sample_rate"]
    except Exception as error:
        raise InputError(
            f"the sound could not be loaded ({type(error).__name__}: {_last_line(error)}). If the video has no sound, "
            "connect a voice from Load Audio."
        ) from error


def _last_line(error: Exception) -> str:
    """Of a program's whole output, which such errors hold, the reason stands in the end."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"
