"""Voices for training: sentences that espeak-ng speaks, tones and silence; and how a person moves to them."""

import shutil
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liveavatar_runtime.duration import ENCODER_FRAME_SAMPLES, ENCODER_MIN_SAMPLES, FEATURE_RATE

RATE = 16000
VOICES = ("en-us", "en-us+f2", "en-gb+m3", "en-gb+f4", "de+m1", "fr+f3", "es+m4", "it+f1")
HELD_OUT_VOICES = ("en-gb-scotland+f5", "en-us+m7")
_KNOWN = (
    "hello morning water people story river music garden window paper yellow silver mountain open close talk listen "
    "always never again maybe after before under over little great quiet loud simple number seven eleven forty hundred "
    "today tomorrow friend mother father teacher doctor animal flower house street city country summer winter evening "
    "remember forget believe imagine explain travel follow answer question picture voice avatar model machine"
)
_HELD_OUT = (
    "ocean candle bridge orange kitchen thunder whisper harvest journey letter copper island meadow purple rocket "
    "shadow timber velvet wander zebra galaxy lantern pepper saddle"
)
WORDS, HELD_OUT_WORDS = _KNOWN.split(), _HELD_OUT.split()

MOTIONS = ("mouth", "tongue", "blink", "lift", "turn")
"""Rows of a motion track, named as in `portraits.Pose`."""


def sentence(rng: np.random.Generator, words: Sequence[str]) -> str:
    """Random words with pauses between groups of them."""
    groups = [" ".join(rng.choice(list(words), int(rng.integers(2, 6)))) for _ in range(int(rng.integers(2, 4)))]
    return ". ".join(groups) + "."


def speak(text: str, voice: str, speed: int, pitch: int) -> Tensor:
    """[1, S] float32 at 16 kHz. Needs espeak-ng."""
    from torchaudio.functional import resample

    espeak = shutil.which("espeak-ng")
    if espeak is None:
        raise SystemExit("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "voice.wav"
        subprocess.run([espeak, "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(file), text], check=True)
        with wave.open(str(file)) as sound:
            rate = sound.getframerate()
            samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype=np.int16)
    return resample(torch.from_numpy(samples.astype(np.float32) / 32768)[None], rate, RATE)


def tones(rng: np.random.Generator, seconds: float) -> Tensor:
    """Notes of random pitch and loudness with gaps, [1, S]."""
    t = torch.arange(int(seconds * RATE)) / RATE
    note = (t / float(rng.uniform(0.2, 0.5))).long()
    pitch = torch.from_numpy(rng.uniform(120, 2500, int(note.max()) + 1)).float()
    loudness = torch.from_numpy(rng.random(int(note.max()) + 1) * (rng.random(int(note.max()) + 1) < 0.7)).float()
    return (0.4 * loudness[note] * torch.sin(2 * torch.pi * torch.cumsum(pitch[note], 0) / RATE))[None]


def voice_of(rng: np.random.Generator, seconds: float, held_out: bool = False) -> Tensor:
    """A track [1, seconds * 16000]: mostly speech, now and then tones or silence."""
    length = int(seconds * RATE)
    kind = 1.0 if held_out else rng.random()
    if kind < 0.03:
        return torch.zeros(1, length)
    if kind < 0.12:
        return tones(rng, seconds)[:, :length]
    voices, words = (HELD_OUT_VOICES, HELD_OUT_WORDS) if held_out else (VOICES, WORDS)
    voice, speed, pitch = str(rng.choice(voices)), int(rng.integers(130, 175)), int(rng.integers(25, 75))
    parts: list[Tensor] = []
    while sum(part.shape[1] for part in parts) < length:
        pause = torch.zeros(1, int(rng.uniform(0.1, 0.8) * RATE))
        parts += [pause, speak(sentence(rng, words), voice, speed, pitch)]
    return torch.cat(parts, dim=1)[:, :length].contiguous()


def motion_of(waveform: Tensor) -> Tensor:
    """How a person moves to a track [1, S] at 16 kHz: [T, 5] in 0..1 at 50 Hz, the frames of the audio encoder.

    The mouth opens with the short-time energy relative to the whole track's, its inside reddens with the spectral
    centroid; eyes close briefly where a pause begins; head and brows follow the slow course of both.
    """
    samples = (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)
    frames = samples[0].unfold(0, ENCODER_MIN_SAMPLES, ENCODER_FRAME_SAMPLES)
    energy = _smooth(frames.square().mean(dim=1).sqrt(), 0.05)
    mouth = ((energy - 0.1) / 1.5).clamp(0, 1)
    spectrum = torch.fft.rfft(frames * torch.hann_window(ENCODER_MIN_SAMPLES)).abs()
    frequency = torch.linspace(0, RATE / 2, spectrum.shape[1])
    centroid = (spectrum * frequency).sum(dim=1) / (spectrum.sum(dim=1) + 1e-3)
    loud = _smooth(energy.clamp(max=1.0), 0.03)
    tongue = (_smooth(centroid / 2500 * loud, 0.06) / (_smooth(loud, 0.06) + 0.05)).clamp(0, 1)
    return torch.stack([mouth, tongue, _blinks(mouth), _smooth(mouth, 0.15), _smooth(tongue * mouth, 0.35)], dim=1)


def _blinks(mouth: Tensor) -> Tensor:
    """Eyes close for 0.2 s when the mouth has just closed after being open."""
    hold = FEATURE_RATE // 5
    shut = mouth < 0.05
    spoke = torch.nn.functional.max_pool1d(torch.nn.functional.pad(mouth[None], (hold, 0)), hold, 1)[0, :-1] > 0.2
    return _smooth((shut & spoke).float(), 0.03)


def _smooth(x: Tensor, seconds: float) -> Tensor:
    """Gaussian mean over time of x [T]."""
    sigma = seconds * FEATURE_RATE
    reach = max(int(3 * sigma), 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    padded = torch.nn.functional.pad(x[None, None], (reach, reach), mode="constant")
    return torch.nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None])[0, 0]
