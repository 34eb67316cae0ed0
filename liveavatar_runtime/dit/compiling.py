"""What `torch.compile` needs on a machine, looked for before a run. PyTorch itself finds out in the middle of it."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from ..device_kinds import CPU, CUDA, MPS, XPU

DEFAULT_CXX = {"win32": "cl", "darwin": "clang++"}
"""What PyTorch calls where the variable CXX names nothing; elsewhere g++."""
HOW_TO_GET = {
    "win32": "install Visual Studio's Build Tools with C++ and start ComfyUI from their command prompt",
    "darwin": "run: xcode-select --install",
}
TRITON = {"win32": "triton-windows"}
"""The package that brings Triton; elsewhere triton."""


def missing_for(device: torch.device) -> str | None:
    """A sentence that says what is missing to compile for a device and how to get it, or None.

    Processors need a C++ compiler, CUDA and XPU Triton with a C compiler, both the headers of Python; MPS nothing.
    """
    looked_for: dict[str, tuple[Callable[[], str | None], ...]] = {
        CPU: (_cxx, _headers),
        CUDA: (_triton, _cc, _headers),
        XPU: (_triton, _cc, _headers),
        MPS: (),
    }
    if device.type not in looked_for:
        return f"PyTorch compiles nothing for {device}."
    return next(filter(None, (look() for look in looked_for[device.type])), None)


def _cxx() -> str | None:
    name = _named("CXX") or DEFAULT_CXX.get(sys.platform, "g++")
    if _is_program(name):
        return None
    how = HOW_TO_GET.get(sys.platform, "install it (Debian, Ubuntu: apt-get install g++)")
    return f"The C++ compiler {name} is not found: {how}, or name another one in the variable CXX."


def _triton() -> str | None:
    if find_spec("triton") is not None:
        return None
    package = TRITON.get(sys.platform, "triton")
    return f"The package {package} is not installed: install it with the pip of the Python that runs ComfyUI."


def _cc() -> str | None:
    """Triton for Windows brings a compiler of its own."""
    named = _named("CC")
    names = [named] if named else ["gcc", "clang"]
    if sys.platform == "win32" or any(map(_is_program, names)):
        return None
    return (
        f"Triton needs a C compiler, and {' or '.join(names)} is not found: install gcc (Debian, Ubuntu: apt-get "
        "install gcc), or name another one in the variable CC."
    )


def _headers() -> str | None:
    folder = Path(sysconfig.get_path("include"))
    if (folder / "Python.h").is_file():
        return None
    return (
        f"The headers of Python are missing: there is no Python.h in {folder}. Debian, Ubuntu: apt-get install "
        "python3-dev; the portable build: copy the folders include and libs of a Python of the same version there."
    )


def _named(variable: str) -> str:
    """What a variable of the environment names, or ""."""
    value = os.path.expandvars(f"${{{variable}}}")
    return "" if value.startswith("$") else value


def _is_program(command: str) -> bool:
    """Whether a command, perhaps with arguments, can be found."""
    return bool(shutil.which(command) or shutil.which((command.split() or [""])[0]))
