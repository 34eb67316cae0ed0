"""ComfyUI's choice of attention kernel."""

from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from liveavatar_runtime.dit.attention import sdpa


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ComfyUI's choice of attention backend over [B, H, L, D].

    Its default for the CPU saves memory at the price of speed and of equality with other executors, so there it is
    PyTorch's own.
    """
    if q.device.type == "cpu":
        return sdpa(q, k, v)
    return optimized_attention(q, k, v, heads=q.shape[1], skip_reshape=True, skip_output_reshape=True)


COMFYUI_ATTENTION = "comfyui"


def attends_with_sage() -> bool:
    """Whether ComfyUI was started with SageAttention, which computes in 8 bits on GPUs."""
    return "sage" in optimized_attention.__name__
