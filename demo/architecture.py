"""Sizes of the demo models. Small, but each in the format and with every part of the real one."""

from typing import Any

from liveavatar_runtime.config import DEMO as TRANSFORMER
from liveavatar_runtime.vae import VaeConfig

# Core builds any width, but only this depth and these strides, so that its own VAE loader reads the file.
VAE = VaeConfig(dim=8)

TOKENIZER_PIECES = 1536

VIDEO_SIDE = 64
"""Width and height in pixels of the only videos that the demo is trained for."""

# umt5 as ComfyUI's T5 reads it: gated tanh GELU, a relative attention bias in every layer.
TEXT_ENCODER: dict[str, Any] = {
    "d_model": TRANSFORMER.text_dim,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "num_layers": 2,
    "dense_act_fn": "gelu_pytorch_tanh",
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "umt5",
    "pad_token_id": 0,
    "eos_token_id": 1,
    "relative_attention_num_buckets": 32,
    "vocab_size": TOKENIZER_PIECES,
}

# The large variant's form: a layer norm in each convolution, layer norms first, so that there are 25 hidden states.
AUDIO_ENCODER: dict[str, Any] = {
    "architectures": ["Wav2Vec2Model"],
    "model_type": "wav2vec2",
    "hidden_size": TRANSFORMER.audio_dim,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": TRANSFORMER.audio_layers - 1,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-05,
    "feat_extract_norm": "layer",
    "feat_extract_activation": "gelu",
    "conv_dim": [32] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_feat_extract_layers": 7,
    "conv_bias": True,
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "vocab_size": 32,
}

AUDIO_PREPROCESSOR: dict[str, Any] = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 16000,
    "do_normalize": True,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
}
