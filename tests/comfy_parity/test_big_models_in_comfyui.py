"""Files that memory has no room for, through core: views of the file, a smaller precision, or words."""

import errno
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from core_latents import BUNDLE, MODEL_FILE, adopted, difference, latents
from test_gguf import Kind, demo_file

from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.errors import MemoryShortage


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return latents(load_transformer(BUNDLE.model, dtype=torch.float32))


@pytest.fixture
def little_memory(core_model, monkeypatch) -> Any:
    """Sets the bytes that are said to be available."""
    core_weights = importlib.import_module(core_model.__name__.replace("core_model", "core_weights"))
    return lambda size: monkeypatch.setattr(core_weights, "available_memory", lambda: size)


@pytest.mark.parametrize("precision", [None, "as in file", torch.bfloat16], ids=str)
def test_weights_stay_in_the_file(core_model, expected, little_memory, precision):
    """Also where core would rather convert them."""
    little_memory(100_000)
    told: list[str] = []
    patcher = core_model.load_with_core(MODEL_FILE, [], precision, tell=told.append)
    weight = patcher.get_model_object("diffusion_model").blocks[0].self_attn.q.weight
    assert weight.dtype == torch.bfloat16
    assert difference(latents(adopted(core_model, patcher)), expected) <= 1e-5
    after = patcher.get_model_object("diffusion_model").blocks[0].self_attn.q.weight
    assert after.data_ptr() == weight.data_ptr(), "still in the file after sampling"
    (text,) = told
    assert "the weights take" in text and "They stay on the disk and are read whenever they are used" in text
    assert "fp8" in text and "the official folder" in text


def test_a_smaller_precision_can_fit(core_model, little_memory):
    little_memory(2 * MODEL_FILE.stat().st_size // 3)
    told: list[str] = []
    patcher = core_model.load_with_core(MODEL_FILE, [], torch.float8_e4m3fn, tell=told.append)
    assert patcher.get_model_object("diffusion_model").blocks[0].self_attn.q.weight.dtype == torch.float8_e4m3fn
    assert not told


@pytest.mark.parametrize("precision", [torch.float16, torch.float32], ids=str)
def test_a_precision_that_does_not_fit_is_refused(core_model, little_memory, precision):
    little_memory(100_000)
    name = str(precision).removeprefix("torch.")
    with pytest.raises(
        MemoryShortage, match=rf"not enough memory. In {name} its weights take .*, with precision fp8_e4m3fn"
    ):
        core_model.load_with_core(MODEL_FILE, [], precision)


def test_an_unpacked_file_that_does_not_fit_is_refused(core_model, little_memory, tmp_path):
    file = demo_file(tmp_path / "model.gguf", Kind.Q8_0)
    little_memory(100_000)
    with pytest.raises(MemoryShortage, match=r"model\.gguf: not enough memory"):
        core_model.load_with_core(file, [], None)


def test_a_file_that_core_cannot_map(core_model, expected, monkeypatch):
    """As Linux and Windows refuse files larger than memory."""

    def refuse(path: str, **_: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory", path)

    import comfy.utils

    monkeypatch.setattr(comfy.utils, "load_torch_file", refuse)
    patcher = core_model.load_with_core(Path(MODEL_FILE), [], None)
    assert difference(latents(adopted(core_model, patcher)), expected) <= 1e-5
