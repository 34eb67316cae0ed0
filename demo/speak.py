"""Speaks `demo/voice.wav`: an English sentence by espeak-ng, 16 kHz, mono, 16 bit.

    python demo/speak.py [file.wav] ["text"]

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
RATE = 16000
PEAK = 0.8


def speak(text: str) -> np.ndarray:
    """The text as int16 samples [S] at 16 kHz."""
    from torchaudio.functional import resample

    espeak = shutil.which("espeak-ng")
    if espeak is None:
        raise SystemExit("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "voice.wav"
        subprocess.run([espeak, *VOICE, "-w", str(raw), text], check=True)
        with wave.open(str(raw)) as file:
            rate = file.getframerate()
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    voice = resample(torch.from_numpy(samples.astype(np.float32)), rate, RATE)
    return (voice / voice.abs().max() * PEAK * 32767).round().to(torch.int16).numpy()


def main(output: Path, text: str) -> None:
    samples = speak(text)
    with wave.open(str(output), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    print(f"{output}: {len(samples) / RATE:.2f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT, sys.argv[2] if len(sys.argv) > 2 else TEXT)
