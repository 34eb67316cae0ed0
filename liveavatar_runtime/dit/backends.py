"""Attention kernels by name: PyTorch's own, and those of packages that users install for speed.

What a backend needs is declared as rows of requirements. They are looked at once, before sampling, for the devices and
the dtype in use; what is not met is told with its reason, and no kernel does anything else by itself.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from ..errors import InputError, MachineError, replaced
from .attention import AttentionKernel, sdpa

SDPA, SAGE = "sdpa", "sage"


@dataclass(frozen=True)
class Use:
    """What a kernel is to be used with. `capability`: of a CUDA device, as (major, minor); None for others."""

    device: str
    capability: tuple[int, int] | None
    dtype: torch.dtype
    head_dim: int

    @classmethod
    def on(cls, device: torch.device, dtype: torch.dtype, head_dim: int) -> "Use":
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        return cls(str(device), capability, dtype, head_dim)


@dataclass(frozen=True)
class Requirement:
    """`unmet` gives what is in the way, or nothing."""

    needs: str
    unmet: Callable[[Use], str | None]


def on_cuda(major: int, minor: int) -> Requirement:
    def unmet(use: Use) -> str | None:
        if use.capability is None:
            return f"the model runs on {use.device}"
        if use.capability < (major, minor):
            return f"{use.device} has compute capability {use.capability[0]}.{use.capability[1]}"
        return None

    return Requirement(f"a CUDA device of compute capability {major}.{minor} or newer", unmet)


def in_dtypes(*dtypes: torch.dtype) -> Requirement:
    def unmet(use: Use) -> str | None:
        return None if use.dtype in dtypes else f"the model computes in {_name(use.dtype)} (precision)"

    return Requirement(" or ".join(map(_name, dtypes)), unmet)


def heads_up_to(size: int) -> Requirement:
    def unmet(use: Use) -> str | None:
        return None if use.head_dim <= size else f"the model's have {use.head_dim}"

    return Requirement(f"heads of at most {size} numbers", unmet)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Backend:
    """A kernel from a package: what imports it, and what it needs."""

    package: str
    kernel: Callable[[], AttentionKernel]
    requirements: tuple[Requirement, ...]

    def unmet(self, use: Use) -> list[str]:
        """Reasons why it cannot run like this."""
        found = ((requirement.needs, requirement.unmet(use)) for requirement in self.requirements)
        return [f"it needs {needs}, and {reason}" for needs, reason in found if reason is not None]


def _sage() -> AttentionKernel:
    from sageattention import sageattn  # pyright: ignore[reportMissingImports]

    return lambda q, k, v: sageattn(q, k, v, tensor_layout="HND", is_causal=False)


def _flash() -> AttentionKernel:
    from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # It wants tokens before heads.
        return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    return kernel


_HALF = in_dtypes(torch.float16, torch.bfloat16)
PACKAGES = {
    SAGE: Backend("sageattention", _sage, (on_cuda(8, 0), _HALF, heads_up_to(128))),
    "flash": Backend("flash_attn", _flash, (on_cuda(8, 0), _HALF, heads_up_to(256))),
}
BACKENDS = (SDPA, *PACKAGES)


@dataclass(frozen=True)
class Resolved:
    """A kernel and the name of the backend that it is of; `reasons` why it is not the one that was asked for."""

    kernel: AttentionKernel
    name: str
    reasons: tuple[str, ...] = ()


def resolve_attention(name: str, uses: Iterable[Use]) -> Resolved:
    """The kernel of a backend, if it can run with all of the uses; else PyTorch's, with the reasons.

    Raises InputError for an unknown name, MachineError when its package is missing or broken.
    """
    if name == SDPA:
        return Resolved(sdpa, SDPA)
    if name not in PACKAGES:
        raise InputError(f"the attention backend is {name!r}; available are {', '.join(BACKENDS)}")
    backend = PACKAGES[name]
    if find_spec(backend.package) is None:
        raise MachineError(
            f"attention backend {name!r} needs the package {backend.package}, which is not installed. Install it for "
            f"your PyTorch and CUDA, or choose {SDPA}."
        )
    reasons = [reason for use in uses for reason in backend.unmet(use)]
    if reasons:
        return Resolved(sdpa, SDPA, tuple(dict.fromkeys(reasons)))
    return Resolved(_imported(name, backend), name)


def _imported(name: str, backend: Backend) -> AttentionKernel:
    # Such packages are built for one PyTorch and one CUDA; with another they fail in many ways.
    with replaced(
        Exception,
        lambda error: MachineError(
            f"attention backend {name!r}: the package {backend.package} is installed but does not work here "
            f"({type(error).__name__}: {error}). Install it for your PyTorch {torch.__version__}, or choose {SDPA}."
        ),
    ):
        return backend.kernel()


def not_used(name: str, reasons: Sequence[str]) -> str | None:
    """For the user: that PyTorch's kernel stands in for a backend, and why."""
    if not reasons:
        return None
    return f"attention {name} cannot run here: {'; '.join(reasons)}. PyTorch's ({SDPA}) is used instead."
