"""Attention kernels by name: what they need is declared, told with its reason, and nothing stands in silently."""

import re
import sys
from pathlib import Path

import pytest
import torch

from liveavatar_runtime.dit.attention import sdpa
from liveavatar_runtime.dit.backends import BACKENDS, PACKAGES, Use, not_used, resolve_attention
from liveavatar_runtime.errors import InputError, MachineError

CARD = Use("cuda:0", (8, 9), torch.bfloat16, 128)
"""Where all backends run."""


@pytest.fixture
def packages(monkeypatch, tmp_path: Path) -> Path:
    """Packages of the backends' names, whose functions refuse to be called."""
    functions = "def sageattn(*_, **__):\n    raise TypeError('called')\nflash_attn_func = sageattn\n"
    for backend in PACKAGES.values():
        (tmp_path / f"{backend.package}.py").write_text(functions)
        monkeypatch.delitem(sys.modules, backend.package, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_sdpa_is_always_there():
    assert resolve_attention("sdpa", [CARD]).kernel is sdpa and BACKENDS[0] == "sdpa"


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="'xformers'; available are sdpa, sage, flash"):
        resolve_attention("xformers", [])


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named(name, monkeypatch):
    # As on a machine without it, also where it is installed.
    monkeypatch.setattr(sys, "path", [])
    sys.path_importer_cache.clear()
    with pytest.raises(MachineError, match=f"{name!r} needs the package {PACKAGES[name].package}, which is not insta"):
        resolve_attention(name, [CARD])


@pytest.mark.parametrize("name", PACKAGES)
def test_a_broken_package_is_named(name, packages: Path):
    (packages / f"{PACKAGES[name].package}.py").write_text("raise OSError('undefined symbol: c10')\n")
    with pytest.raises(MachineError, match=f"{PACKAGES[name].package} is installed but does not work.*undefined symb"):
        resolve_attention(name, [CARD])


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (Use.on(torch.device("cpu"), torch.bfloat16, 128), "it needs a CUDA device of .* the model runs on cpu"),
        (Use("cuda:1", (7, 5), torch.float16, 128), "cuda:1 has compute capability 7.5"),
        (Use("cuda:0", (9, 0), torch.float32, 128), "it needs float16 or bfloat16, and the model computes in float32"),
        (Use("cuda:0", (9, 0), torch.float16, 512), "it needs heads of at most .* numbers, and the model's have 512"),
    ],
    ids=["processor", "old card", "float32", "wide heads"],
)
def test_what_a_backend_cannot_take_is_told_and_goes_to_pytorch(name, use, reason, packages):
    found = resolve_attention(name, [CARD, use])
    assert (found.kernel, found.name) == (sdpa, "sdpa")
    text = not_used(name, found.reasons)
    assert text and text.startswith(f"attention {name} cannot run here: it needs")
    assert text.endswith("PyTorch's (sdpa) is used instead.")
    assert re.search(reason, text), text


@pytest.mark.parametrize("name", PACKAGES)
def test_a_backend_that_can_run_is_called_and_never_replaced(name, packages):
    """Also with what it did not declare to take: then its own error shows."""
    found = resolve_attention(name, [CARD])
    assert (found.name, found.reasons, not_used(name, found.reasons)) == (name, (), None)
    with pytest.raises(TypeError, match="called"):
        found.kernel(*torch.randn(3, 1, 2, 5, 8).unbind())
