"""What nodes of other packs put into the layers of a connected MODEL, called as ComfyUI's core calls it.

Of core's `transformer_options` these belong to single attentions, so they work in a block loop as well: the override of
attention, and the patches of what self-attention (`attn1_patch`) and attention to the text (`attn2_patch`) give.
`model_patches` tells what becomes of all others.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from inspect import Parameter, signature
from typing import cast

import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention, wrap_attn
from torch import Tensor

from liveavatar_runtime.dit.attention import AttentionKernel
from liveavatar_runtime.dit.hooks import BeginRow
from liveavatar_runtime.errors import InputError

from .attention import attention
from .comfy_types import Hook, Patcher, TransformerOptions

OVERRIDE = "optimized_attention_override"
WanPatch = Callable[[dict[str, object]], Tensor]
SELF_PATCH, TEXT_PATCH = "attn1_patch", "attn2_patch"
ANY_NUMBER = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)


def honoured_hooks(patcher: Patcher) -> Iterator[tuple[str, Hook]]:
    """The functions that are called in the layers, with their places in `transformer_options`."""
    options = patcher.model_options.get("transformer_options", {})
    if OVERRIDE in options:
        yield OVERRIDE, options[OVERRIDE]
    for name in (SELF_PATCH, TEXT_PATCH):
        yield from ((name, function) for function in _patches(options, name))


def is_for_wan(patch: Hook) -> bool:
    """Whether a patch takes what core's Wan models hand over, one dict; those of other models take several tensors."""
    try:
        parameters = list(signature(patch).parameters.values())
    except TypeError:
        return False
    except ValueError:
        # Of a function of another language nothing is known.
        return True
    takes_one = any(parameter.kind in POSITIONAL for parameter in parameters[:1])
    return takes_one and all(
        parameter.default is not parameter.empty or parameter.kind in ANY_NUMBER for parameter in parameters[1:]
    )


def _patches(options: TransformerOptions, name: str) -> list[WanPatch]:
    return [cast(WanPatch, patch) for patch in options.get("patches", {}).get(name, ()) if is_for_wan(patch)]


def hooks_of(patcher: Patcher, layers: int) -> BeginRow | None:
    """The hooks of a ModelPatcher for a transformer of so many layers; None when it has none."""
    if not any(True for _ in honoured_hooks(patcher)):
        return None
    options = patcher.model_options.get("transformer_options", TransformerOptions())
    return lambda sigma, schedule: CoreRow(options, layers, sigma, schedule)


class CoreRow:
    """`RowHooks` of one evaluation; as in core, its functions share one dict, in which they may leave things."""

    def __init__(self, options: TransformerOptions, layers: int, sigma: float, schedule: Sequence[float]) -> None:
        self._self_patches, self._text_patches = (_patches(options, name) for name in (SELF_PATCH, TEXT_PATCH))
        self._sigma, self._schedule = sigma, schedule
        self._options = {**options, "total_blocks": layers, "block_type": "double", "cond_or_uncond": [0]}

    def attend(self, layer: int, kernel: AttentionKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if OVERRIDE not in self._options:
            return kernel(q, k, v)
        heads = q.shape[1]
        # Core's Wan models hand over tokens with all heads in one dimension.
        flat = (t.transpose(1, 2).flatten(2) for t in (q, k, v))
        out = core_function(kernel, q.device.type)(*flat, heads=heads, transformer_options=self._at(layer, q))
        return out.unflatten(2, (heads, -1)).transpose(1, 2)

    def after_self_attention(self, layer: int, x: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        for patch in self._self_patches:
            x = patch({"x": x, "q": queries, "k": keys, "transformer_options": self._at(layer, x)})
        return x

    def after_text_attention(self, layer: int, hidden: Tensor, like: Tensor) -> Tensor:
        if not self._text_patches:
            return hidden
        x = hidden.to(like.dtype)
        for patch in self._text_patches:
            x = patch({"x": x, "transformer_options": self._at(layer, like)})
        return x.to(hidden.dtype)

    def _at(self, layer: int, like: Tensor) -> dict[str, object]:
        """The evaluation's options in a layer."""
        if "sigmas" not in self._options:
            self._options["sigmas"] = torch.tensor([self._sigma], device=like.device)
            self._options["sample_sigmas"] = torch.tensor(list(self._schedule), device=like.device)
        self._options["block_index"] = layer
        return self._options


@cache
def core_function(kernel: AttentionKernel, device: str) -> Callable[..., Tensor]:
    """A kernel as one of core's attention functions, which ask the override by themselves."""
    if kernel is attention:
        return attention_pytorch if device == "cpu" else optimized_attention

    def attention_of_widget(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: torch.dtype | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **_: object,
    ) -> Tensor:
        if mask is not None:
            raise InputError(
                "the attention override of base_model uses a mask, which only attention comfyui of DiT Sampler can; "
                "choose that, or remove the node that sets the override"
            )
        if not skip_reshape:
            q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = kernel(q, k, v)
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)

    return wrap_attn(attention_of_widget)
