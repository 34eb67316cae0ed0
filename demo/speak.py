"""Speaks `demo/voice.wav`: an English sentence by espeak-ng, 16 kHz, mono, 16 bit; or the template's conversation.

    python demo/speak.py [file.wav] ["text"]
    python demo/speak.py --conversation [file.wav]

Needs Debian's espeak-ng package.
"""

import shutil
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np
import torch

OUTPUT = Path(__file__).parent / "voice.wav"
TEXT = "Hello, I am a live avatar. Give me a picture and a voice, and I will talk for as long as you like."
VOICE = ("-v", "en-us+f3", "-s", "152", "-p", "55")
CONVERSATION = Path(__file__).parent / "conversation.wav"
OTHER_VOICE = ("-v", "en-gb+m3", "-s", "145", "-p", "35")
TURNS = (
    (VOICE, "Hello! I am a live avatar. And you?"),
    (OTHER_VOICE, "I am one, too."),
    (VOICE, "Then let us talk."),
)
PAUSE = 0.4
"""Seconds between two turns."""
RATE = 16000
PEAK = 0.8


def speak(text: str, voice: tuple[str, ...] = VOICE) -> np.ndarray:
    """The text as int16 samples [S] at 16 kHz."""
    from torchaudio.functional import resample

    espeak = shutil.which("espeak-ng")
    if espeak is None:
        raise SystemExit("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "voice.wav"
        subprocess.run([espeak, *voice, "-w", str(raw), text], check=True)
        with wave.open(str(raw)) as file:
            rate = file.getframerate()
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    sound = resample(torch.from_numpy(samples.astype(np.float32)), rate, RATE)
    return (sound / sound.abs().max() * PEAK * 32767).round().to(torch.int16).numpy()


def converse() -> np.ndarray:
    """Two people in turns, whose times it prints as the template's node takes them."""
    pause, parts, length = np.zeros(int(PAUSE * RATE), np.int16), [], 0
    for voice, text in TURNS:
        # From the middle of the pause, to a tenth of a second.
        print(f"0:{max(0, length / RATE - PAUSE / 2):04.1f} {1 + (voice is not VOICE)}")
        parts += [speak(text, voice), pause]
        length = sum(map(len, parts))
    return np.concatenate(parts[:-1])


def main(output: Path, samples: np.ndarray) -> None:
    with wave.open(str(output), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    print(f"{output}: {len(samples) / RATE:.2f} s")


if __name__ == "__main__":
    given = sys.argv[1:]
    if given[:1] == ["--conversation"]:
        main(Path(given[1]) if len(given) > 1 else CONVERSATION, converse())
    else:
        main(Path(given[0]) if given else OUTPUT, speak(given[1] if len(given) > 1 else TEXT))
