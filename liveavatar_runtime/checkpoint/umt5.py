"""Names of the umT5 text encoder in the official archive, as the Hugging Face names that ComfyUI reads."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError

TOP = {
    "token_embedding.weight": "shared.weight",
    "norm.weight": "encoder.final_layer_norm.weight",
}
IN_LAYER = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
LAYER = re.compile(r"^blocks\.(\d+)\.(.+)\.weight$")


def is_archive(weights: Mapping[str, Tensor]) -> bool:
    """Whether the weights have the official archive's names (`models_t5_umt5-xxl-enc-bf16.pth`)."""
    return "token_embedding.weight" in weights and "blocks.0.attn.q.weight" in weights


def hugging_face_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under Hugging Face's names. Raises CheckpointError for a name that umT5 does not have."""
    unknown = sorted(name for name in weights if not _renamed(name))
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors of the text encoder are not umT5's ({', '.join(unknown[:5])}); "
            "use models_t5_umt5-xxl-enc-bf16.pth of the official folder"
        )
    return {_renamed(name): tensor for name, tensor in weights.items()}


def _renamed(name: str) -> str:
    """ "" for a name that is not umT5's."""
    match = LAYER.match(name)
    if match and match[2] in IN_LAYER:
        return f"encoder.block.{match[1]}.{IN_LAYER[match[2]]}.weight"
    return TOP.get(name, "")


def infer_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The Hugging Face config of umT5 weights in Hugging Face names, from their shapes."""
    vocabulary, width = weights["shared.weight"].shape
    heads = weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape[1]
    layers = {match[1] for name in weights if (match := re.match(r"encoder\.block\.(\d+)\.", name))}
    return {
        "model_type": "umt5",
        "d_model": width,
        "d_kv": weights["encoder.block.0.layer.0.SelfAttention.q.weight"].shape[0] // heads,
        "d_ff": weights["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        "num_heads": heads,
        "num_layers": len(layers),
        "vocab_size": vocabulary,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-6,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
