"""Models and inputs to measure with: random ones of any size, made on the device, and the demo's."""

import wave
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar_runtime.config import DEMO, WAN_S2V_14B, AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs
from liveavatar_runtime.vae import WAN_2_1, PlacedVAE, VaeConfig, WanVAE

from .bench import Bench

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "demo"
FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
SIZES = ((384, 256), (688, 368), (720, 400))
"""Of the 14B model, as (width, height)."""
TINY_SIZES = ((64, 64), (96, 64))
FP8_ROWS = 16
"""Rows of an input from which a product in fp8 is worth it, and allowed."""


@dataclass(frozen=True)
class RandomVoice:
    """Features of any frame, each block's own."""

    config: AvatarConfig

    def frames(self, first: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(first)
        return torch.randn(1, self.config.audio_layers, self.config.audio_dim, count, generator=generator)


class Fp8Linear(nn.Module):
    """A Linear whose weight is kept in fp8 with one scale. The product is one in the input's dtype, of a weight that
    is unpacked for it, as ComfyUI does without fast kernels."""

    comfy_cast_weights = True
    """Brings its weight to the input's dtype by itself (`embeddings.casts_weights`)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device=device, dtype=FP8), requires_grad=False)
        self.scale = nn.Parameter(torch.empty((), device=device, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs, device=device, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), bias)


class Fp8ProductLinear(Fp8Linear):
    """With the product itself in fp8 (`torch._scaled_mm`) and a scale for the input that is found for each call."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if x.dtype not in (torch.bfloat16, torch.float16) or len(rows) < FP8_ROWS or not x.is_cuda:
            return super().forward(x)
        scale = rows.abs().amax().float().clamp(min=1e-12) / FP8_MAX
        quantised = (rows.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        product = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
            quantised, self.weight.t(), scale_a=scale, scale_b=self.scale, bias=bias, out_dtype=x.dtype
        )
        return product.unflatten(0, x.shape[:-1])


@dataclass(frozen=True)
class Operations:
    """torch.nn with another Linear."""

    Linear: Callable[..., nn.Module]
    Conv1d: Any = nn.Conv1d
    Conv3d: Any = nn.Conv3d
    LayerNorm: Any = nn.LayerNorm
    RMSNorm: Any = nn.RMSNorm
    Embedding: Any = nn.Embedding


OPERATIONS: dict[str, Any] = {"fp8": Operations(Fp8Linear), "fp8 products": Operations(Fp8ProductLinear)}
"""By the name of what weights are kept as; those of any dtype are torch.nn's."""


def random_model(
    config: AvatarConfig, dtype: torch.dtype, device: torch.device, weights: str = "plain"
) -> CausalWanS2V:
    """Random weights of such sizes that values stay near 1, made tensor by tensor on the device: nothing is larger
    than what stays, and no fp32 copy is made. `weights`: "plain" or a key of OPERATIONS."""
    model = CausalWanS2V(config, OPERATIONS.get(weights, nn), device="meta", dtype=dtype)
    fill(model, device)
    return model.eval().requires_grad_(False)


def fill(model: nn.Module, device: torch.device) -> None:
    """Replace a model's parameters on the meta device by random ones on `device`."""
    generator = torch.Generator(device).manual_seed(0)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = torch.empty(parameter.shape, dtype=_made_in(parameter.dtype), device=device)
            randomise(name, value, generator)
            if parameter.dtype == FP8:
                # Its scale comes next: 1 / FP8_MAX would be the largest weight's.
                value = (value * value.shape[1] ** 0.5 * 64).clamp(-FP8_MAX, FP8_MAX).to(FP8)
            setattr(module, name, nn.Parameter(value, requires_grad=False))
        if isinstance(module, Fp8Linear):
            module.scale.data.fill_(module.weight.shape[1] ** -0.5 / 64)


def _made_in(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype == FP8 else dtype


def randomise(name: str, value: Tensor, generator: torch.Generator) -> None:
    if name == "modulation":
        value.normal_(0.0, value.shape[-1] ** -0.5, generator=generator)
    elif name == "weights":
        # Of the voice's layers, of which a weighted mean is taken: their sum must not be near 0.
        value.fill_(0.01)
    elif name == "gamma" or (name == "weight" and value.ndim == 1):
        value.normal_(1.0, 0.02, generator=generator)
    elif value.ndim > 1:
        value.normal_(0.0, value[0].numel() ** -0.5, generator=generator)
    elif value.ndim == 1:
        value.normal_(0.0, 0.02, generator=generator)
    else:
        value.fill_(1.0)


def random_vae(config: VaeConfig, dtype: torch.dtype, device: torch.device) -> WanVAE:
    vae = WanVAE(config, device="meta", dtype=dtype)
    fill(vae, device)
    return vae.eval().requires_grad_(False)


def random_conditions(config: AvatarConfig, plan: ClipPlan) -> Conditions:
    generator = torch.Generator().manual_seed(1)
    height, width = plan.latent_size
    return Conditions(
        text=torch.randn(128, config.text_dim, generator=generator),
        reference=torch.randn(16, 1, height, width, generator=generator),
        motion=torch.randn(16, config.motion_frames[1], height, width, generator=generator),
        audio=RandomVoice(config),
    )


def large_config(bench: Bench) -> AvatarConfig:
    """The 14B model's; the demo's in a tiny run."""
    return DEMO if bench.tiny else WAN_S2V_14B


def wide_config(bench: Bench) -> AvatarConfig:
    """A few layers as wide as the 14B model's."""
    return replace(large_config(bench), num_layers=4, audio_inject_layers=(0, 2))


def vae_config(bench: Bench) -> VaeConfig:
    return VaeConfig(dim=8, num_res_blocks=1) if bench.tiny else WAN_2_1


def sizes(bench: Bench) -> tuple[tuple[int, int], ...]:
    return TINY_SIZES if bench.tiny else SIZES


def main_size(bench: Bench) -> tuple[int, int]:
    """The one that most is measured at."""
    return TINY_SIZES[0] if bench.tiny else SIZES[1]


def plan_of(bench: Bench, size: tuple[int, int], **changes: Any) -> ClipPlan:
    """A long video of that size; the reference picture is renewed at the second clip, as in any video."""
    width, height = size
    steps = 2 if bench.tiny else 4
    return ClipPlan(num_clip=100, width=width, height=height, keep_aspect=False, steps=steps, **changes)


@dataclass(frozen=True)
class Demo:
    """The demo model's inputs, and latents [16, 7, h, w] to prime its decoder with."""

    conditions: Conditions
    priming: Tensor
    plan: ClipPlan

    @classmethod
    def load(cls, tiny: bool = False) -> "Demo":
        """Two clips of the demo's portrait and voice; a random prompt, so that no text encoder is needed. In float32 on
        the CPU. `tiny`: of a block and two steps each."""
        from PIL import Image

        from liveavatar_runtime.audio.features import AvatarAudio
        from liveavatar_runtime.sampling.prepare import prepare

        folder = DEMO_FOLDER / "liveavatar-demo"
        frames, steps = (12, 2) if tiny else (36, 4)
        plan = ClipPlan(num_clip=2, infer_frames=frames, width=64, height=64, seed=7, fps=Fraction(25), steps=steps)
        voice, rate = _read_wave(DEMO_FOLDER / "voice.wav", float(plan.duration))
        audio = AvatarAudio(_voice_features(folder / "wav2vec2", voice, rate), voice, rate)
        picture = torch.from_numpy(np.asarray(Image.open(DEMO_FOLDER / "portrait.png").convert("RGB")) / 255.0).float()
        text = torch.randn(40, DEMO.text_dim, generator=torch.Generator().manual_seed(3))
        cpu = torch.device("cpu")
        ready = prepare(
            plan, DEMO, Inputs(picture, text, audio), PlacedVAE(demo_vae(cpu, torch.float32), cpu, torch.float32)
        )
        return cls(ready.conditions, ready.priming, ready.plan)


def _voice_features(encoder: Path, voice: Tensor, rate: int) -> Tensor:
    """[1, layers, frames, width] of a voice; random ones where torchaudio, which has the encoder, is missing."""
    from liveavatar_runtime.audio.wav2vec2 import load_wav2vec2
    from liveavatar_runtime.checkpoint.safetensors_io import read_json, read_weight_file

    if find_spec("torchaudio") is None:
        shape = (1, DEMO.audio_layers, 50 * voice.shape[1] // rate, DEMO.audio_dim)
        return torch.randn(shape, generator=torch.Generator().manual_seed(4))
    weights = read_weight_file(encoder)[0]
    return load_wav2vec2(weights, read_json(encoder / "config.json")).encode_long(voice, rate)[None]


def demo_model(device: torch.device, dtype: torch.dtype) -> CausalWanS2V:
    from liveavatar_runtime.checkpoint.transformer import load_transformer

    return load_transformer(DEMO_FOLDER / "liveavatar-demo", dtype=dtype).to(device)


def demo_vae(device: torch.device, dtype: torch.dtype) -> WanVAE:
    from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
    from liveavatar_runtime.vae import load_wan_vae

    weights = read_weight_file(DEMO_FOLDER / "liveavatar-demo" / "Wan2.1_VAE.safetensors")[0]
    return load_wan_vae(weights, dtype=dtype, device=device)


def _read_wave(path: Path, seconds: float) -> tuple[Tensor, int]:
    """[1, S] float32, repeated until it is long enough."""
    with wave.open(str(path), "rb") as file:
        rate, raw = file.getframerate(), file.readframes(file.getnframes())
    samples = torch.from_numpy(np.frombuffer(raw, dtype="<i2").astype(np.float32) / 2**15)
    count = int(seconds * rate)
    return samples.repeat(count // len(samples) + 1)[None, :count], rate
