"""All executors: their names, where they run, and why one cannot run here."""

import sys
from collections.abc import Sequence

import torch

from ..config import AvatarConfig
from ..devices import AUTO
from ..errors import InputError
from .groups import ONLY_IN_GROUPS
from .kind import ExecutorKind, HereInProcess
from .local import LOCAL
from .pipelines import LAYER_PIPELINE, TIMESTEP_PIPELINE

TABLE: dict[str, ExecutorKind] = {
    kind.name: kind for kind in (LOCAL, *ONLY_IN_GROUPS, TIMESTEP_PIPELINE, LAYER_PIPELINE)
}
NAMES = (AUTO, *TABLE)
"""What a user may choose."""
DEFAULT = LOCAL.name
"""Of a model whose devices nobody named."""
IN_GROUPS = tuple(name for name, kind in TABLE.items() if kind.runs_in_groups)
FOR_AUTO = tuple(
    sorted((kind for kind in TABLE.values() if kind.auto_rank is not None), key=lambda k: k.auto_rank or 0)
)
"""What `auto` chooses among, of equally fast ones the first."""

WORKERS_PAGE = "https://github.com/liveavatar/ComfyUI-LiveAvatar/blob/main/docs/WORKERS.md"
"""Of the repository, as the registry's archive leaves it out."""
GROUPS_NEED = "linux"
"""The system (`sys.platform`) on which groups of worker processes run."""
NO_GROUPS = {
    "win32": "PyTorch for Windows cannot hand open sockets and files to worker processes, and has no NCCL",
    "darwin": "PyTorch has no communication between processes for Apple's GPUs, so workers there would only use the "
    "processor",
}
"""Why there are none elsewhere."""


def check_executor(name: str) -> str:
    """`name` itself. Raises InputError for an unknown one."""
    if name not in NAMES:
        raise InputError(f"executor is {name!r}; allowed are {', '.join(NAMES)}")
    return name


def resolve(name: str, devices: Sequence[torch.device]) -> str:
    """The executor that "auto" stands for: one device's with one; with several it depends on the plan, and stays
    auto."""
    return DEFAULT if name == AUTO and len(devices) < 2 else name


def check_devices(name: str, devices: Sequence[torch.device], config: AvatarConfig) -> None:
    """Raises InputError when the executor cannot use these devices for this model."""
    kind = TABLE.get(check_executor(name))
    reason = "" if kind is None else kind.refusal(devices, config)
    if reason:
        raise InputError(reason)


def runs_here(name: str) -> bool:
    """Whether an executor, if there is one of that name, needs no group of worker processes; `auto` is such a one."""
    return name not in TABLE or TABLE[name].here is not None


def needs_named_devices(name: str) -> bool:
    """Whether an executor uses other devices than that of the process, also where none is named."""
    return name != AUTO and TABLE[name].shares != ""


def here(name: str) -> HereInProcess:
    """How an executor runs in this process, which it does (`runs_here`)."""
    found = TABLE[name].here
    assert found is not None, f"{name} runs in groups of worker processes only"
    return found


def check_groups(name: str, platform: str | None = None, version: str = torch.__version__) -> None:
    """Raises InputError where no group of worker processes can run an executor, with the reason and what runs instead.

    `platform`: as `sys.platform`, which it is if None.
    """
    platform = platform or sys.platform
    *others, last = sorted((kind for kind in FOR_AUTO if kind.here), key=lambda kind: kind.shares != "")
    names = f"{', '.join(kind.name for kind in others)} and {last.name}"
    instead = (
        f"What works here: executor {names} in ComfyUI itself, or workers that run on a Linux machine ({WORKERS_PAGE})"
    )
    if platform != GROUPS_NEED:
        why = NO_GROUPS.get(platform, "they were never run there")
        raise InputError(
            f"{name} in workers: these processes run on Linux only, and this is {platform}: {why}. {instead}"
        )
    major, minor = (int(part) for part in version.split(".")[:2])
    oldest = TABLE[name].oldest_torch_in_groups
    if (major, minor) < oldest:
        needed = ".".join(map(str, oldest))
        raise InputError(f"{name} in workers needs PyTorch {needed} or newer, and this is {version}. {instead}")
