"""Names of the umT5 text encoder in the official archive, as the Hugging Face names that ComfyUI reads."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..dtypes import dtype_name
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
SIZES = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size")
"""Keys of the config that the weights tell too."""
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_pytorch_tanh", "gelu_new": "gelu_pytorch_tanh", "relu": "relu"}
"""Names in configs, as ComfyUI's core calls the same functions."""
BUCKETS = 32
RIGHT_FILE = "Use umt5/ of the model's folder, or models_t5_umt5-xxl-enc-bf16.safetensors"
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
    """The Hugging Face config of umT5 weights in Hugging Face names, from their shapes.

    Raises CheckpointError when these are no umT5's.
    """
    block = "encoder.block.0.layer"
    vocabulary, width = _matrix(weights, "shared.weight")
    heads = _matrix(weights, f"{block}.0.SelfAttention.relative_attention_bias.weight")[1]
    layers = {int(found[1]) for name in weights if (found := re.match(r"encoder\.block\.([0-9]{1,6})\.", name))}
    return {
        "model_type": "umt5",
        "d_model": width,
        "d_kv": _matrix(weights, f"{block}.0.SelfAttention.q.weight")[0] // heads,
        "d_ff": _matrix(weights, f"{block}.1.DenseReluDense.wi_0.weight")[0],
        "num_heads": heads,
        "num_layers": len(layers),
        "vocab_size": vocabulary,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-6,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def check_config(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config beside umT5 weights, if it says of them what they are: nothing is built after it before.

    Raises CheckpointError, with both values, where it does not.
    """
    measured = infer_config(weights)
    told = {key: config.get(key) for key in (*SIZES, "is_gated_act", "model_type", "dense_act_fn")}
    wrong = [f"{key} is {told[key]!r}, the weights have {measured[key]}" for key in SIZES if told[key] != measured[key]]
    wrong += [f"{key} is a {type(told[key]).__name__}" for key in SIZES if type(told[key]) is not int and not wrong]
    wrong += [
        f"{key} is {told[key]!r}, it must be {measured[key]!r}"
        for key in ("is_gated_act", "model_type")
        if told[key] != measured[key]
    ]
    if told["dense_act_fn"] not in list(ACTIVATIONS):
        wrong.append(f"dense_act_fn is {told['dense_act_fn']!r}, it must be one of {', '.join(ACTIVATIONS)}")
    if wrong:
        raise CheckpointError(f"the text encoder's config does not fit its weights: {'; '.join(wrong)}")
    return {**config, "dense_act_fn": ACTIVATIONS[config["dense_act_fn"]]}


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every weight of a umT5 encoder and its shape; the number of buckets is the published models'."""
    width, inner, ff = config["d_model"], config["d_kv"] * config["num_heads"], config["d_ff"]
    attention = {f"layer.0.SelfAttention.{part}.weight": (inner, width) for part in "qkv"}
    layer = {
        **attention,
        "layer.0.SelfAttention.o.weight": (width, inner),
        "layer.0.SelfAttention.relative_attention_bias.weight": (BUCKETS, config["num_heads"]),
        "layer.0.layer_norm.weight": (width,),
        "layer.1.DenseReluDense.wi_0.weight": (ff, width),
        "layer.1.DenseReluDense.wi_1.weight": (ff, width),
        "layer.1.DenseReluDense.wo.weight": (width, ff),
        "layer.1.layer_norm.weight": (width,),
    }
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (config["vocab_size"], width)}
    for number in range(config["num_layers"]):
        shapes |= {f"encoder.block.{number}.{name}": shape for name, shape in layer.items()}
    return {**shapes, "encoder.final_layer_norm.weight": (width,)}


def _matrix(weights: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Rows and columns of a weight. Raises CheckpointError when there is none, or it is no matrix of numbers."""
    weight = weights.get(name)
    if weight is None:
        raise CheckpointError(f"the text encoder's weights are missing {name!r}, so they are no umT5. {RIGHT_FILE}")
    if weight.ndim != 2 or not weight.numel() or not weight.is_floating_point():
        kind = dtype_name(weight.dtype)
        raise CheckpointError(f"the text encoder's {name!r} is {list(weight.shape)} of {kind}, no matrix. {RIGHT_FILE}")
    return weight.shape[0], weight.shape[1]
