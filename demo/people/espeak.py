"""Sentences that espeak-ng speaks, with the time of each of its phonemes."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PROGRAM = Path(__file__).with_name("espeak_program.py")


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


def speak(text: str, manner: Manner) -> Spoken:
    """The text as espeak-ng says it, the same every time. Ends with a sentence where it cannot: no library, no such
    voice."""
    how = (manner.voice, manner.speed, manner.pitch, manner.pitch_range)
    command = [sys.executable, "-S", str(PROGRAM), *map(str, how)]
    done = subprocess.run(command, input=text.encode("utf-8"), capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.decode("utf-8", errors="replace").strip())
    told, _, sound = done.stdout.partition(b"\n")
    said = json.loads(told)
    samples = np.frombuffer(sound, dtype="<i2").astype(np.float32) / 32768
    return Spoken(samples, said["rate"], [(at, name) for at, name in said["phonemes"]])
