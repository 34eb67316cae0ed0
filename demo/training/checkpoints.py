"""Training state on disk, replaced as a whole, so that a run can stop at any time."""

import os
from pathlib import Path
from typing import Any, Protocol

import torch


class Stateful(Protocol):
    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def save_state(file: Path, model: torch.nn.Module, optimizer: Stateful, step: int) -> None:
    partial = file.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    os.replace(partial, file)


def load_state(file: Path, model: torch.nn.Module, optimizer: Stateful) -> int:
    """Steps done; 0, and nothing loaded, where there is no such file."""
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
