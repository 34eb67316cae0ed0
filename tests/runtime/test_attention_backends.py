"""Attention kernels by name."""

import sys
from pathlib import Path

import pytest
import torch

from liveavatar_runtime.dit.attention import sdpa
from liveavatar_runtime.dit.backends import BACKENDS, PACKAGES, attention_kernel
from liveavatar_runtime.errors import InputError, MachineError


def test_sdpa_is_always_there():
    assert attention_kernel("sdpa") is sdpa and BACKENDS[0] == "sdpa"


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="'xformers'; available are sdpa, sage, flash"):
        attention_kernel("xformers")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named(name, monkeypatch):
    # As on a machine without it, also where it is installed.
    monkeypatch.setattr(sys, "path", [])
    sys.path_importer_cache.clear()
    with pytest.raises(MachineError, match=f"{name!r} needs the package {PACKAGES[name]}, which is not installed"):
        attention_kernel(name)


@pytest.mark.parametrize("name", PACKAGES)
def test_what_the_package_cannot_take_goes_to_pytorch(name, monkeypatch, tmp_path: Path):
    """On the CPU, and in float32, where a package that refuses must not be called."""
    functions = "def sageattn(*_, **__):\n    raise TypeError\nflash_attn_func = sageattn\n"
    (tmp_path / f"{PACKAGES[name]}.py").write_text(functions)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGES[name], raising=False)
    q, k, v = torch.randn(3, 1, 2, 5, 8).unbind()
    assert torch.equal(attention_kernel(name)(q, k, v), sdpa(q, k, v))
