"""Sentences that espeak-ng speaks, with the time of each of its phonemes."""

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

LIBRARIES = ("libespeak-ng.so.1", "libespeak-ng.dylib", "libespeak-ng.dll")
SYNCHRONOUS, PHONEME_EVENTS, UTF8 = 2, 1, 1
LIST_END, PHONEME = 0, 7
SPEED, PITCH, RANGE = 1, 3, 4
"""Numbers of `speak_lib.h` (espeak-ng 1.51)."""


class _Name(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Manner:
    """How somebody speaks: voice as `espeak-ng -v` takes it, words a minute, pitch and its range, both 0..99."""

    voice: str
    speed: int = 150
    pitch: int = 50
    pitch_range: int = 50


@dataclass(frozen=True)
class Spoken:
    """samples float32 [S] in -1..1 at `rate`; phonemes with the sample each begins at, in espeak-ng's notation."""

    samples: np.ndarray
    rate: int
    phonemes: list[tuple[int, str]]


@cache
def _library() -> tuple[Any, int]:
    """The library, begun once in this process, and its sample rate."""
    for name in (ctypes.util.find_library("espeak-ng"), *LIBRARIES):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            library = None
        if library is not None:
            rate = library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS)
            assert rate > 0, "espeak-ng has no data"
            return library, rate
    raise SystemExit("espeak-ng's library is not installed; on Debian: apt-get install libespeak-ng1")


def speak(text: str, manner: Manner) -> Spoken:
    """The text as espeak-ng says it. Raises ValueError for a voice that it does not have."""
    library, rate = _library()
    parts: list[np.ndarray] = []
    phonemes: list[tuple[int, str]] = []

    def take(samples: Any, count: int, events: Any) -> int:
        if samples and count:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        number = 0
        while events[number].type != LIST_END:
            if events[number].type == PHONEME:
                phonemes.append((events[number].sample, events[number].id.string.decode("utf-8", errors="replace")))
            number += 1
        return 0

    callback = _Callback(take)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(manner.voice.encode()):
        raise ValueError(f"espeak-ng has no voice {manner.voice!r}")
    for number, value in ((SPEED, manner.speed), (PITCH, manner.pitch), (RANGE, manner.pitch_range)):
        library.espeak_SetParameter(number, value, 0)
    data = text.encode("utf-8")
    library.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None)
    library.espeak_Synchronize()
    samples = np.concatenate(parts).astype(np.float32) / 32768 if parts else np.zeros(0, np.float32)
    return Spoken(samples, rate, phonemes)
