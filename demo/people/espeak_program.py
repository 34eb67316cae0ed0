"""Says a sentence with espeak-ng's library: `python espeak_program.py VOICE SPEED PITCH RANGE < text`.

Writes one line of JSON, {"rate", "phonemes": [[sample, name], ...]}, and the samples after it, 16 bit. A process for
each sentence: what the library says depends on what it has said before.
"""

import ctypes
import ctypes.util
import json
import sys
from typing import Any

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


def library() -> Any:
    for name in (ctypes.util.find_library("espeak-ng"), *LIBRARIES):
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError:
            continue
    raise SystemExit("espeak-ng's library is not installed; on Debian: apt-get install libespeak-ng1")


def main(voice: str, speed: str, pitch: str, pitch_range: str) -> None:
    espeak, parts, phonemes = library(), list[bytes](), list[tuple[int, str]]()
    rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS)
    if rate <= 0:
        raise SystemExit("espeak-ng has no data")

    def take(samples: Any, count: int, events: Any) -> int:
        if samples and count:
            parts.append(ctypes.string_at(samples, 2 * count))
        number = 0
        while events[number].type != LIST_END:
            if events[number].type == PHONEME:
                phonemes.append((events[number].sample, events[number].id.string.decode("utf-8", errors="replace")))
            number += 1
        return 0

    callback = _Callback(take)
    espeak.espeak_SetSynthCallback(callback)
    if espeak.espeak_SetVoiceByName(voice.encode()):
        raise SystemExit(f"espeak-ng has no voice {voice!r}")
    for number, value in ((SPEED, speed), (PITCH, pitch), (RANGE, pitch_range)):
        espeak.espeak_SetParameter(number, int(value), 0)
    text = sys.stdin.buffer.read()
    espeak.espeak_Synth(text, len(text) + 1, 0, 0, 0, UTF8, None, None)
    espeak.espeak_Synchronize()
    sys.stdout.buffer.write(json.dumps({"rate": rate, "phonemes": phonemes}).encode() + b"\n" + b"".join(parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
