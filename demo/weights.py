"""First weights of the demo models: seeded, scaled so that signals keep their size on the way through.

Every tensor has its own random stream, named by the tensor, so adding one leaves the others as they are. Values are
uniform and drawn by numpy from integers: the same bits on every machine, which normal ones are not.
"""

import math
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveavatar_runtime import latent_space
from liveavatar_runtime.checkpoint.detect import expected_shapes
from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.vae import VaeConfig, WanVAE

Shape = tuple[int, ...]
DTYPE = torch.bfloat16

# E[silu(z)^2] of a standard normal z is 0.355: a layer behind SiLU needs this gain to keep the size.
AFTER_SILU = 1.68
BIAS = 0.05
SMALL, HALF = 0.3, 0.5


class Weights:
    """State dict under construction; `seed` and each tensor's name decide its values."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.tensors: dict[str, Tensor] = {}

    def uniform(self, name: str, shape: Shape, std: float) -> None:
        """Zero mean, standard deviation `std`."""
        stream = np.random.Generator(np.random.PCG64([self.seed, zlib.crc32(name.encode())]))
        values = (stream.random(shape) * 2.0 - 1.0) * (std * math.sqrt(3.0))
        self.tensors[name] = torch.from_numpy(values).to(DTYPE)

    def layer(self, name: str, shape: Shape, gain: float = 1.0) -> None:
        """A linear or convolution weight [out, in, ...] that multiplies the size of its input by `gain`."""
        self.uniform(name, shape, gain / math.sqrt(math.prod(shape[1:])))

    def constant(self, name: str, shape: Shape, value: float) -> None:
        self.tensors[name] = torch.full(shape, value, dtype=DTYPE)


def transformer_weights(config: AvatarConfig, seed: int) -> dict[str, Tensor]:
    """Random weights under which picture, voice, prompt and time all move the output visibly."""
    weights = Weights(seed)
    gains = {
        "time_embedding.0.weight": 1.4,
        "time_embedding.2.weight": AFTER_SILU,
        "time_projection.1.weight": AFTER_SILU * HALF,
    }
    for name, shape in expected_shapes(config).items():
        if ".norm_q." in name or ".norm_k." in name:
            # Most text rows are padding with keys near zero; sharper attention is what lets the prompt through.
            weights.constant(name, shape, 1.75 if ".cross_attn." in name else 1.0)
        elif name.endswith("norm3.weight"):
            weights.constant(name, shape, 1.0)
        elif name == "casual_audio_encoder.weights":
            weights.constant(name, shape, 0.01)
        elif name.endswith("modulation"):
            weights.uniform(name, shape, 1.0 / math.sqrt(shape[-1]))
        elif name.endswith("bias"):
            weights.uniform(name, shape, BIAS)
        elif name.endswith(("trainable_cond_mask.weight", "padding_tokens")):
            weights.uniform(name, shape, HALF)
        elif ".injector_adain_layers." in name:
            weights.layer(name, shape, SMALL * AFTER_SILU)
        else:
            weights.layer(name, shape, gains.get(name, 1.0))
    return weights.tensors


def vae_weights(config: VaeConfig, seed: int) -> dict[str, Tensor]:
    """Random weights whose latents have the mean and spread that the transformer expects of a Wan VAE."""
    weights = Weights(seed)
    shapes = {name: tuple(value.shape) for name, value in WanVAE(config, device="meta").state_dict().items()}
    for name, shape in shapes.items():
        if name.endswith("gamma"):
            weights.constant(name, shape, 1.0)
        elif name.endswith("bias"):
            weights.uniform(name, shape, BIAS)
        elif ".residual." in name:
            weights.layer(name, shape, AFTER_SILU * (HALF if ".residual.6." in name else 1.0))
        elif name == "decoder.head.2.weight":
            weights.layer(name, shape, AFTER_SILU * HALF)
        else:
            weights.layer(name, shape, AFTER_SILU if ".head.2." in name else 1.0)
    mean, std = torch.tensor(latent_space.MEAN), torch.tensor(latent_space.STD)
    encode = torch.zeros(shapes["conv1.weight"])
    encode[: latent_space.CHANNELS, : latent_space.CHANNELS, 0, 0, 0] = torch.diag(std)
    decode = torch.diag(1 / std)[:, :, None, None, None]
    weights.tensors["conv1.weight"] = encode.to(DTYPE)
    weights.tensors["conv1.bias"] = torch.cat([mean, torch.zeros_like(mean)]).to(DTYPE)
    weights.tensors["conv2.weight"] = decode.to(DTYPE)
    weights.tensors["conv2.bias"] = (-mean / std).to(DTYPE)
    return weights.tensors


def text_weights(config: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """A umt5 encoder in the names of ComfyUI's repackaged files."""
    weights = Weights(seed)
    dim, inner, wide = config["d_model"], config["d_kv"] * config["num_heads"], config["d_ff"]
    weights.uniform("shared.weight", (config["vocab_size"], dim), 1.0)
    for number in range(config["num_layers"]):
        attention, feed_forward = (f"encoder.block.{number}.layer.{part}" for part in (0, 1))
        # T5 does not divide the scores by sqrt(d_kv); its queries are small instead.
        weights.layer(f"{attention}.SelfAttention.q.weight", (inner, dim), 1 / math.sqrt(config["d_kv"]))
        weights.layer(f"{attention}.SelfAttention.k.weight", (inner, dim))
        weights.layer(f"{attention}.SelfAttention.v.weight", (inner, dim))
        weights.layer(f"{attention}.SelfAttention.o.weight", (dim, inner))
        buckets = (config["relative_attention_num_buckets"], config["num_heads"])
        weights.uniform(f"{attention}.SelfAttention.relative_attention_bias.weight", buckets, HALF)
        weights.constant(f"{attention}.layer_norm.weight", (dim,), 1.0)
        weights.layer(f"{feed_forward}.DenseReluDense.wi_0.weight", (wide, dim))
        weights.layer(f"{feed_forward}.DenseReluDense.wi_1.weight", (wide, dim))
        weights.layer(f"{feed_forward}.DenseReluDense.wo.weight", (dim, wide))
        weights.constant(f"{feed_forward}.layer_norm.weight", (dim,), 1.0)
    weights.constant("encoder.final_layer_norm.weight", (dim,), 1.0)
    return weights.tensors


def audio_weights(config: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """A wav2vec2 in Hugging Face names, with the prefix that the published fine-tuned files have."""
    weights = Weights(seed)
    dim, wide = config["hidden_size"], config["intermediate_size"]
    channels = 1
    for number, (out, kernel) in enumerate(zip(config["conv_dim"], config["conv_kernel"], strict=True)):
        prefix = f"wav2vec2.feature_extractor.conv_layers.{number}"
        _affine(weights, f"{prefix}.conv", (out, channels, kernel), AFTER_SILU)
        _norm(weights, f"{prefix}.layer_norm", out)
        channels = out
    _norm(weights, "wav2vec2.feature_projection.layer_norm", channels)
    _affine(weights, "wav2vec2.feature_projection.projection", (dim, channels))
    weights.uniform("wav2vec2.masked_spec_embed", (dim,), 1.0)
    position = "wav2vec2.encoder.pos_conv_embed.conv"
    kernel, groups = config["num_conv_pos_embeddings"], config["num_conv_pos_embedding_groups"]
    # Weight norm over (out, in): magnitudes of one position of the kernel, for a gain of 1 over all of them.
    weights.constant(f"{position}.parametrizations.weight.original0", (1, 1, kernel), math.sqrt(dim / kernel))
    weights.layer(f"{position}.parametrizations.weight.original1", (dim, dim // groups, kernel))
    weights.uniform(f"{position}.bias", (dim,), BIAS)
    for number in range(config["num_hidden_layers"]):
        prefix = f"wav2vec2.encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _affine(weights, f"{prefix}.attention.{name}", (dim, dim), HALF if name == "out_proj" else 1.0)
        _affine(weights, f"{prefix}.feed_forward.intermediate_dense", (wide, dim))
        _affine(weights, f"{prefix}.feed_forward.output_dense", (dim, wide), HALF)
        for name in ("layer_norm", "final_layer_norm"):
            _norm(weights, f"{prefix}.{name}", dim)
    _norm(weights, "wav2vec2.encoder.layer_norm", dim)
    return weights.tensors


def parameter_count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _affine(weights: Weights, name: str, shape: Shape, gain: float = 1.0) -> None:
    weights.layer(f"{name}.weight", shape, gain)
    weights.uniform(f"{name}.bias", shape[:1], BIAS)


def _norm(weights: Weights, name: str, size: int) -> None:
    weights.constant(f"{name}.weight", (size,), 1.0)
    weights.constant(f"{name}.bias", (size,), 0.0)
