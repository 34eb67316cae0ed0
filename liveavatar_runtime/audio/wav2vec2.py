"""wav2vec 2.0: torchaudio's model with weights under their Hugging Face names, giving every hidden state."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..aligned import align_weights, aligned
from ..duration import ENCODER_FRAME_SAMPLES, ENCODER_MIN_SAMPLES, ENCODER_SAMPLE_RATE
from ..errors import CheckpointError, InputError
from .waveform import to_encoder_rate
from .windows import A_MINUTE_AT_A_TIME, LongTrack, encode_in_windows

_MARKER = "feature_extractor.conv_layers.0.conv.weight"
_BODY = ("feature_extractor.", "feature_projection.", "encoder.")
_POSITION = "encoder.pos_conv_embed.conv."
_AGAIN = "Download or copy its file again."
_STRIDES = (5, 2, 2, 2, 2, 2, 2)


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Architecture of one wav2vec2 checkpoint. Convolutions are (channels, kernel, stride)."""

    convolutions: tuple[tuple[int, int, int], ...]
    conv_bias: bool
    layer_norm_extractor: bool
    dim: int
    ffn_dim: int
    num_layers: int
    num_heads: int
    position_kernel: int
    position_groups: int
    stable_layer_norm: bool
    do_normalize: bool


def plain_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's own weights without a prefix such as "wav2vec2."; heads, quantizer and mask embedding left out.

    The positional convolution's weight norm, in either spelling, is folded into one float32 weight.
    Raises CheckpointError when these are not the weights of a wav2vec2.
    """
    prefix = next((name.removesuffix(_MARKER) for name in state_dict if name.endswith(_MARKER)), None)
    if prefix is None:
        raise CheckpointError(
            f"the audio encoder's weights have no {_MARKER!r}, so they are not a wav2vec2. "
            "Use wav2vec2-large-xlsr-53-english or another wav2vec2 with Hugging Face names."
        )
    plain = {name.removeprefix(prefix): weight for name, weight in state_dict.items() if name.startswith(prefix)}
    plain = {name: weight for name, weight in plain.items() if name.startswith(_BODY)}
    for magnitude, direction in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if _POSITION + magnitude in plain and _POSITION + direction in plain:
            g, v = plain.pop(_POSITION + magnitude).float(), plain.pop(_POSITION + direction).float()
            if v.ndim != 3 or tuple(g.shape) != (1, 1, v.shape[2]):
                raise CheckpointError(
                    f"the audio encoder's {_POSITION}{magnitude} is {list(g.shape)}, which is no length for each part "
                    f"of {direction}, {list(v.shape)}. {_AGAIN}"
                )
            plain[_POSITION + "weight"] = g * v / v.norm(dim=(0, 1), keepdim=True)
    return plain


def infer_config(weights: Mapping[str, Tensor], hf_config: Mapping[str, Any] | None = None) -> Wav2Vec2Config:
    """Architecture from the shapes of `plain_names` weights.

    What shapes don't tell comes from `hf_config` (Hugging Face's config.json, with preprocessor_config.json merged
    in, if there is one), else from the published models: heads of 64, strides 5 2 2 2 2 2 2; large ones (a layer norm
    in each convolution) normalise their input and put layer norms first, base ones do neither.
    Raises CheckpointError when something is missing or the frames would not come at 50 a second.
    """
    known = dict(hf_config or {})
    kernels: list[Tensor] = []
    while (name := f"feature_extractor.conv_layers.{len(kernels)}.conv.weight") in weights:
        kernels.append(_need(weights, name, axes=3))
    strides = known.get("conv_stride", _STRIDES)
    if not isinstance(strides, list | tuple) or not all(type(stride) is int and stride > 0 for stride in strides):
        raise CheckpointError(f"conv_stride in the audio encoder's config is {strides!r}, no list of whole numbers")
    sizes = [kernel.shape[-1] for kernel in kernels]
    view = 1 + sum((size - 1) * math.prod(strides[:i]) for i, size in enumerate(sizes))
    if len(strides) != len(kernels) or (math.prod(strides), view) != (ENCODER_FRAME_SAMPLES, ENCODER_MIN_SAMPLES):
        raise CheckpointError(
            f"the audio encoder's convolutions have kernels {sizes} and strides {list(strides)}; "
            f"the model needs frames of {ENCODER_MIN_SAMPLES} samples, one every {ENCODER_FRAME_SAMPLES}, as the "
            "published wav2vec2 models have. Use one of those."
        )
    layers = {int(found[1]) for name in weights if (found := re.match(r"encoder\.layers\.([0-9]{1,6})\.", name))}
    position = _need(weights, _POSITION + "weight", axes=3)
    dim = position.shape[0]
    if dim % position.shape[1]:
        raise CheckpointError(
            f"the audio encoder's {_POSITION}weight is {list(position.shape)}, in no groups. {_AGAIN}"
        )
    heads = known.get("num_attention_heads", max(dim // 64, 1))
    if type(heads) is not int or heads < 1 or dim % heads:
        raise CheckpointError(
            f"the audio encoder has width {dim}, which {heads!r} attention heads do not divide. "
            "Put its config.json next to the weights."
        )
    large = "feature_extractor.conv_layers.1.layer_norm.weight" in weights
    return Wav2Vec2Config(
        convolutions=tuple(
            (kernel.shape[0], size, stride) for kernel, size, stride in zip(kernels, sizes, strides, strict=True)
        ),
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in weights,
        layer_norm_extractor=large,
        dim=dim,
        ffn_dim=_need(weights, "encoder.layers.0.feed_forward.intermediate_dense.weight", axes=2).shape[0],
        num_layers=len(layers),
        num_heads=heads,
        position_kernel=position.shape[2],
        position_groups=dim // position.shape[1],
        stable_layer_norm=bool(known.get("do_stable_layer_norm", large)),
        do_normalize=bool(known.get("do_normalize", large)),
    )


def load_wav2vec2(
    state_dict: Mapping[str, Tensor],
    hf_config: Mapping[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> "Wav2Vec2Encoder":
    """The encoder of a checkpoint with Hugging Face names, in float32 on `device`, ready to encode.

    Raises CheckpointError when weights are missing, of the wrong shape, or of another kind of model.
    """
    weights = plain_names(state_dict)
    config = infer_config(weights, hf_config)
    with torch.device("meta"):
        encoder = Wav2Vec2Encoder(config)
    named = {_torchaudio_name(name): weight.to(device, torch.float32) for name, weight in weights.items()}
    expected = {name: tuple(weight.shape) for name, weight in encoder.model.state_dict().items()}
    missing, unexpected = sorted(expected.keys() - named.keys()), sorted(named.keys() - expected.keys())
    odd = [name for name in expected.keys() & named.keys() if tuple(named[name].shape) != expected[name]]
    if missing or unexpected or odd:
        raise CheckpointError(
            f"the audio encoder's weights don't fit a wav2vec2 of width {config.dim} with {config.num_layers} layers: "
            f"{len(missing)} missing {missing[:5]}, {len(unexpected)} unknown {unexpected[:5]}, "
            f"{len(odd)} of another shape {sorted(odd)[:5]}. Use a plain wav2vec2 checkpoint, downloaded completely."
        )
    encoder.model.load_state_dict(named, assign=True)
    return encoder.eval().requires_grad_(False)


class Wav2Vec2Encoder(nn.Module):
    """Turns sound into the L + 1 hidden states of a wav2vec2 with L layers, 50 frames a second.

    The first is the input of layer 0 (positional convolution included), the others the outputs of the layers; where
    layer norms come first, the last one is taken after the final layer norm. These are Hugging Face's `hidden_states`.
    """

    def __init__(self, config: Wav2Vec2Config):
        super().__init__()
        from torchaudio.models import wav2vec2_model

        self.config = config
        # Any: torchaudio's sub-modules carry no types.
        self.model: Any = wav2vec2_model(
            extractor_mode="layer_norm" if config.layer_norm_extractor else "group_norm",
            extractor_conv_layer_config=list(config.convolutions),
            extractor_conv_bias=config.conv_bias,
            encoder_embed_dim=config.dim,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=config.position_kernel,
            encoder_pos_conv_groups=config.position_groups,
            encoder_num_layers=config.num_layers,
            encoder_num_heads=config.num_heads,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=config.ffn_dim,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=config.stable_layer_norm,
            encoder_layer_drop=0.0,
            aux_num_out=None,
        )
        # A plain convolution: the weight norm is folded into its weight once, when loading.
        self.model.encoder.transformer.pos_conv_embed.conv = nn.Conv1d(
            config.dim,
            config.dim,
            config.position_kernel,
            padding=config.position_kernel // 2,
            groups=config.position_groups,
        )

    def encode(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Hidden states [L + 1, T, D] float32 of a waveform [C, S], in one pass, on the encoder's device.

        T = (S16 - 400) // 320 + 1 for S16 samples at 16 kHz. Raises InputError when there are fewer than 400.
        """
        return self.encode_prepared(*self.prepare(waveform, sample_rate))

    def encode_long(self, waveform: Tensor, sample_rate: int, how: LongTrack = A_MINUTE_AT_A_TIME) -> Tensor:
        """As `encode`, but on the CPU, and in overlapping windows where the track is long (`encode_in_windows`).

        The level is normalised over the whole track, so that a long pause is not turned up to the level of speech.
        """
        return encode_in_windows(self.encode_prepared, *self.prepare(waveform, sample_rate), how)

    def prepare(self, waveform: Tensor, sample_rate: int) -> tuple[Tensor, int]:
        """The mean of the channels [1, S16] at 16 kHz with mean 0 and variance 1 (if the model wants that), 16000."""
        samples = to_encoder_rate(waveform, sample_rate)
        if samples.shape[-1] < ENCODER_MIN_SAMPLES:
            raise InputError(
                f"the audio has {samples.shape[-1]} samples at {ENCODER_SAMPLE_RATE} Hz; "
                f"at least {ENCODER_MIN_SAMPLES} are needed. Use a longer track."
            )
        if self.config.do_normalize:
            variance, mean = torch.var_mean(samples, correction=0)
            samples = (samples - mean) / torch.sqrt(variance + 1e-7)
        return samples, ENCODER_SAMPLE_RATE

    @torch.no_grad()
    def encode_prepared(self, samples: Tensor, sample_rate: int) -> Tensor:
        """Hidden states [L + 1, T, D] of what `prepare` returned, or of a stretch of it."""
        assert sample_rate == ENCODER_SAMPLE_RATE and samples.shape[0] == 1
        transformer = self.model.encoder.transformer
        device = transformer.layer_norm.weight.device
        align_weights(self.model, device)
        features, _ = self.model.feature_extractor(aligned(samples.to(device)), None)
        x = self.model.encoder.feature_projection(features)
        x = x + transformer.pos_conv_embed(x)
        if not self.config.stable_layer_norm:
            x = transformer.layer_norm(x)
        states = [x]
        for layer in transformer.layers:
            x, _ = layer(x)
            states.append(x)
        if self.config.stable_layer_norm:
            states[-1] = transformer.layer_norm(x)
        return torch.cat(states)


def _need(weights: Mapping[str, Tensor], name: str, axes: int) -> Tensor:
    """A weight with so many axes and with values in it."""
    weight = weights.get(name)
    if weight is None:
        raise CheckpointError(
            f"the audio encoder's weights have no {name!r}. Use a complete wav2vec2 checkpoint with Hugging Face names."
        )
    if weight.ndim != axes or not weight.numel():
        raise CheckpointError(f"the audio encoder's {name} is {list(weight.shape)}, not of {axes} axes. {_AGAIN}")
    return weight


def _torchaudio_name(name: str) -> str:
    if name.startswith("feature_projection."):
        return "encoder." + name
    return re.sub(r"^encoder\.", "encoder.transformer.", name)
