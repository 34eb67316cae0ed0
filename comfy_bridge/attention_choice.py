"""The attention kernel of a run: what the widget asks for, what can run there, and what the user is told about it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from liveavatar_runtime.dit.attention import AttentionKernel, sdpa
from liveavatar_runtime.dit.backends import SAGE, SDPA, Use, not_used, resolve_attention
from liveavatar_runtime.fingerprint import Fingerprint
from liveavatar_runtime.sampling.video_key import EXACT

from .attention import COMFYUI_ATTENTION, attends_with_sage
from .attention import attention as comfyui_kernel
from .avatar import AvatarModel
from .comfy_types import Patcher
from .identity import identity
from .layer_hooks import OVERRIDE, honoured_hooks
from .model_patches import deciding

COMFYUI = COMFYUI_ATTENTION


@dataclass(frozen=True)
class ChosenAttention:
    """`name` is that of the kernel that runs; `kind`: exact, or which approximation it is (`Numerics.attention`).
    `warnings` and `facts` are for the node."""

    kernel: AttentionKernel
    name: str
    kind: str = EXACT
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def choose_attention(
    model: AvatarModel, attention: str, compile_layers: bool, devices: Sequence[torch.device]
) -> ChosenAttention:
    """For a model on these devices. Raises MachineError when the package of a kernel is missing or broken."""
    if model.workers is not None:
        return _of_workers(attention, compile_layers)
    facts = tuple(_override(model.patcher, attention))
    if attention == COMFYUI:
        sage = attends_with_sage() and any(device.type == "cuda" for device in devices)
        return ChosenAttention(comfyui_kernel, COMFYUI, SAGE if sage else EXACT, facts=facts)
    head_dim = model.config.head_dim
    found = resolve_attention(attention, [Use.on(device, model.dtype, head_dim) for device in dict.fromkeys(devices)])
    reason = not_used(attention, found.reasons)
    kind = SAGE if found.name == SAGE else EXACT
    return ChosenAttention(found.kernel, found.name, kind, (reason,) if reason else (), facts)


def _of_workers(attention: str, compile_layers: bool) -> ChosenAttention:
    """Workers have PyTorch's attention and nothing else, and do not compile."""
    warnings = []
    if attention not in (COMFYUI, SDPA):
        warnings.append(f"attention {attention} has no effect with workers: they use PyTorch's ({SDPA}).")
    if compile_layers:
        warnings.append("compile has no effect with workers: they run the layers as they are.")
    return ChosenAttention(sdpa, SDPA, EXACT, tuple(warnings), (f"Attention in the workers: PyTorch's ({SDPA})",))


def _override(patcher: Patcher, attention: str) -> Iterable[str]:
    if any(place == OVERRIDE for place, _ in honoured_hooks(patcher)):
        yield f"The attention override of base_model is used; what it leaves is done by attention {attention}"


def patches_key(model: AvatarModel) -> tuple[str, ...]:
    """What tells apart the things on a connected MODEL that decide the latents (`model_patches.deciding`)."""
    found = [] if model.loaded is None else list(deciding(model.patcher))
    if not found:
        return ()
    fingerprint = Fingerprint()
    for thing in found:
        for number, part in enumerate(identity(thing.value)):
            fingerprint.add(f"{thing.place}.{number}", part)
    return (fingerprint.hexdigest(),)
