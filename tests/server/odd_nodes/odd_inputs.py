"""Prompts, voices and pictures as other packs give them, and as ours would not."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

RATE = 16000
PORTRAIT = Path(__file__).resolve().parents[3] / "demo" / "portrait.png"


def odd_prompts(rows: torch.Tensor, settings: dict) -> dict[str, list]:
    """Conditionings by kind, from a plain one."""
    mask = torch.ones(1, 8, 8)
    keys = {"mask": mask, "mask_strength": 1.0, "audio_embed": mask, "their_setting": 3, "guidance": None}
    # As core's own text encoder gives 25,000 tokens.
    many = torch.rand(1, 25_000, rows.shape[2], generator=torch.Generator().manual_seed(0)).half()
    return {
        "batch": [[rows.repeat(2, 1, 1), settings]],
        "keys": [[rows, {**settings, **keys}]],
        "neutral": [[rows, {**settings, "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}]],
        "many": [[many, settings]],
        "zeros": [[torch.zeros_like(rows), settings]],
        "nan": [[torch.full_like(rows, float("nan")), settings]],
        "ids": [[torch.zeros(1, 512, dtype=torch.int64), settings]],
        "wide": [[torch.ones(1, 512, 768), settings]],
        "none": [],
    }


class OddPrompt:
    """A conditioning changed in one way."""

    FUNCTION, RETURN_TYPES, CATEGORY = "make", ("CONDITIONING",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "kind": ("STRING",)}}

    def make(self, conditioning, kind: str):
        ((rows, settings),) = conditioning
        return (odd_prompts(rows, settings)[kind],)


class LazyAudio(Mapping):
    """Sound as VideoHelperSuite gives it: no dict, and loaded by a program when it is asked for."""

    def __getitem__(self, name: str):
        return {"waveform": sound(1), "sample_rate": RATE}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("waveform", "sample_rate"))

    def __len__(self) -> int:
        return 2


class SilentAudio:
    """The same of a video without sound, as packs have it that copied VideoHelperSuite's without its base class."""

    def __getitem__(self, name: str):
        raise Exception("extracting failed:\nOutput file does not contain any stream\n")


def sound(channels: int) -> torch.Tensor:
    """[1, channels, S], 1.5 s of a tone."""
    samples = 0.5 * torch.sin(2 * torch.pi * 220 * torch.arange(24000) / RATE)
    return samples.expand(1, channels, -1)


def odd_audio(kind: str):
    """An AUDIO by kind."""
    return {
        "none": lambda: None,
        "none inside": lambda: {"waveform": None, "sample_rate": RATE},
        "no samples": lambda: {"waveform": torch.zeros(1, 2, 0), "sample_rate": RATE},
        "no rate": lambda: {"waveform": sound(1)},
        "tensor": lambda: sound(1),
        "numpy": lambda: {"waveform": sound(2)[0].numpy(), "sample_rate": np.int64(RATE)},
        "float rate": lambda: {"waveform": sound(1).half(), "sample_rate": 16000.0},
        "tensor rate": lambda: {"waveform": sound(1), "sample_rate": torch.tensor(RATE)},
        "broken rate": lambda: {"waveform": sound(1), "sample_rate": 16000.5},
        "lazy": lambda: LazyAudio(),
        "lazy, no sound": lambda: SilentAudio(),
        "batch": lambda: {"waveform": sound(1).repeat(3, 1, 1), "sample_rate": RATE},
        "surround": lambda: {"waveform": sound(6), "sample_rate": RATE},
        "many channels": lambda: {"waveform": sound(10), "sample_rate": RATE},
        "16 bit": lambda: {"waveform": sound(1) * 32767, "sample_rate": RATE},
        "too loud": lambda: {"waveform": sound(1) * 8, "sample_rate": RATE},
    }[kind]()


class OddAudio:
    FUNCTION, RETURN_TYPES, CATEGORY = "make", ("AUDIO",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": ("STRING",)}}

    def make(self, kind: str):
        return (odd_audio(kind),)


class OddVoice:
    """An encoded voice as of another audio encoder: fewer layers."""

    FUNCTION, RETURN_TYPES, CATEGORY = "make", ("LIVEAVATAR_AUDIO",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"voice": ("LIVEAVATAR_AUDIO",)}}

    def make(self, voice):
        return (replace(voice, features=voice.features[:, :3]),)


class _Untouched:
    def __getattr__(self, name: str):
        raise AttributeError(f"the VAE was asked for {name}")


class UntouchedVAE:
    """A VAE that must not be loaded: whoever asks for anything of it fails."""

    FUNCTION, RETURN_TYPES, CATEGORY = "make", ("VAE",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def make(self):
        return (_Untouched(),)


def odd_image(kind: str):
    """The demo's portrait by kind, [512, 512, 3], and others."""
    levels = torch.tensor(np.asarray(Image.open(PORTRAIT).convert("RGB"))).long()
    noise = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    return {
        "none": lambda: None,
        "numpy int": lambda: levels.numpy(),
        "uint8": lambda: levels.to(torch.uint8)[None],
        "half": lambda: (levels / 255).half()[None],
        "no batch": lambda: levels / 255,
        "grey": lambda: levels[None, ..., :1] / 255,
        "float 255": lambda: levels[None].float(),
        "float64": lambda: levels[None].numpy() / 255.0,
        "glass": lambda: torch.full((1, 96, 64, 4), 0.5),
        "-1 to 1": lambda: levels[None] / 127.5 - 1,
        "channels first": lambda: (levels / 255).permute(2, 0, 1)[None],
        "nan": lambda: torch.full((1, 96, 64, 3), float("nan")),
        "four faces": lambda: torch.cat([torch.cat([levels, levels], dim=1)] * 2)[None] / 255,
        "no face": lambda: 0.4 + noise / 5,
    }[kind]()


class OddImage:
    FUNCTION, RETURN_TYPES, CATEGORY = "make", ("IMAGE",), "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": ("STRING",)}}

    def make(self, kind: str):
        return (odd_image(kind),)


class OddEnd:
    """Takes anything and does nothing: what stands before it is executed."""

    FUNCTION, RETURN_TYPES, CATEGORY, OUTPUT_NODE = "end", (), "tests", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    def end(self, value):
        return ()


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (OddPrompt, OddAudio, OddVoice, UntouchedVAE, OddImage, OddEnd)}
