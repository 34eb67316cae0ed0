"""From a state dict to a WanVAE, or to a message that says what the file is instead."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..latent_space import CHANNELS
from ..texts import MISSING, OF_ANOTHER_SHAPE, UNEXPECTED, listing
from . import operations as vae_operations
from .config import infer_config
from .model import WanVAE

COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FIRST_WEIGHT = "encoder.conv1.weight"
WRAPPERS = frozenset(("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Parts of names that modules around a module add."""
RIGHT_FILE = "take Wan2.1_VAE.pth (official folder) or wan_2.1_vae.safetensors (ComfyUI's repackaged file)"

TINY = "decoder.22.bias"
"""A weight of the small decoders (`tiny`)."""

# A weight name that tells another kind of file apart -> what that file is.
OTHER_FILES = {
    TINY: "a small decoder (taew2_1, lighttaew2_1), which only decodes: connect it to Online VAE Decode",
    "decoder.upsamples.0.upsamples.0.residual.2.weight": "the Wan 2.2 VAE with 48 latent channels (of Wan2.2-TI2V-5B)",
    "decoder.mid_block.resnets.0.norm1.gamma": "a Wan VAE in the layout of diffusers",
    "decoder.mid_block.resnets.0.norm1.weight": "a picture VAE in the layout of diffusers",
    "decoder.mid.block_1.norm1.weight": "a picture VAE of the Stable Diffusion or Flux kind",
    "first_stage_model.decoder.mid.block_1.norm1.weight": "a whole Stable Diffusion checkpoint",
    "blocks.0.self_attn.q.weight": "a diffusion model",
    "model.diffusion_model.blocks.0.self_attn.q.weight": "a diffusion model",
}


def load_wan_vae(
    state_dict: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    operations: Any = vae_operations,
) -> WanVAE:
    """A frozen WanVAE with the weights of `Wan2.1_VAE.pth`, its safetensors form or a ComfyUI `VAE.get_sd()`.

    Wrappers in the names (`_orig_mod.` of torch.compile, prefixes) do not matter, and sizes come from the weights.
    The tensors themselves become the parameters; they are copied only where `dtype` or `device` (default: as they are)
    asks for it. Raises CheckpointError for anything but a complete Wan 2.1 VAE.
    """
    weights = unwrapped({name: value for name, value in state_dict.items() if isinstance(value, Tensor)})
    vae = WanVAE(infer_config(weights), operations=operations, device="meta")
    _check_weights(weights, {name: value.shape for name, value in vae.state_dict().items()})
    dtype = dtype or weights["conv1.weight"].dtype
    if dtype not in COMPUTE_DTYPES:
        raise CheckpointError(
            f"the VAE's weights are {dtype}; it computes in {', '.join(map(str, COMPUTE_DTYPES))}: choose one of "
            "them as dtype"
        )
    vae.load_state_dict(weights, strict=True, assign=True)
    return vae.to(device=device, dtype=dtype).eval().requires_grad_(False)


def unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the VAE's own names, where a wrapper stands in front of all or inside of some.

    `torch.compile` puts `_orig_mod` into the names of what it compiles, FSDP and DataParallel do alike, files of whole
    pipelines have a prefix. Tensors without that prefix are no part of the VAE.
    """
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in weights}
    ends = [name for name in plain if f".{name}".endswith(f".{FIRST_WEIGHT}")]
    prefix = min(ends, key=len).removesuffix(FIRST_WEIGHT) if ends else ""
    return {name.removeprefix(prefix): weights[given] for name, given in plain.items() if name.startswith(prefix)}


def _check_weights(weights: dict[str, Tensor], expected: dict[str, torch.Size]) -> None:
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    misshaped = [
        f"{name} {list(weights[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    if not (missing or unexpected or misshaped):
        return
    kinds = ((MISSING, missing), (UNEXPECTED, unexpected), (OF_ANOTHER_SHAPE, misshaped))
    details = "; ".join(listing(kind, names) for kind, names in kinds if names)
    raise CheckpointError(
        f"these weights are not a complete Wan 2.1 VAE{_guess(weights)}. {details}. Please {RIGHT_FILE}."
    )


def _guess(weights: dict[str, Tensor]) -> str:
    for name, what in OTHER_FILES.items():
        if name in weights:
            return f"; they look like {what}"
    last = weights.get("conv2.weight")
    if last is not None and last.ndim and last.shape[0] != CHANNELS:
        return f"; they are a VAE with {last.shape[0]} latent channels instead of {CHANNELS}"
    return ""
