"""Attention kernels by name: PyTorch's own, and those of packages that users install for speed."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, MachineError
from .attention import AttentionKernel, sdpa

PACKAGES = {"sage": "sageattention", "flash": "flash_attn"}
"""Package that a backend comes from."""
BACKENDS = ("sdpa", *PACKAGES)


def attention_kernel(name: str) -> AttentionKernel:
    """The kernel of a backend. Raises InputError for an unknown name, MachineError when its package is missing."""
    if name == "sdpa":
        return sdpa
    if name not in PACKAGES:
        raise InputError(f"the attention backend is {name!r}; available are {', '.join(BACKENDS)}")
    package = PACKAGES[name]
    if find_spec(package) is None:
        raise MachineError(
            f"attention backend {name!r} needs the package {package}, which is not installed. Install it for your "
            "PyTorch and CUDA, or choose sdpa."
        )
    return _sage() if name == "sage" else _flash()


def _sage() -> AttentionKernel:
    from sageattention import sageattn  # pyright: ignore[reportMissingImports]

    return _in_half_precision(lambda q, k, v: sageattn(q, k, v, tensor_layout="HND", is_causal=False))


def _flash() -> AttentionKernel:
    from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Any:
        # It wants tokens before heads.
        return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    return _in_half_precision(kernel)


def _in_half_precision(kernel: Callable[[Tensor, Tensor, Tensor], Tensor]) -> AttentionKernel:
    """These kernels take float16 and bfloat16 on CUDA only; all else goes to PyTorch."""

    def chosen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
            return sdpa(q, k, v)
        return kernel(q, k, v)

    return chosen
