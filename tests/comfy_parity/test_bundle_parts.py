"""Damaged parts of a model folder are refused with what is missing; core alone would go on without telling."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from core_latents import BUNDLE
from pack_modules import folder_of
from safetensors.torch import load_file, save_file

from liveavatar_runtime.checkpoint.bundle import Bundle, find_bundle

Change = Callable[[dict], dict]


def without(part: str) -> Change:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def halved(part: str) -> Change:
    return lambda tensors: {name: t[: len(t) // 2].contiguous() if part in name else t for name, t in tensors.items()}


def damaged(folder: Path, file: str, change: Change) -> Bundle:
    """A copy of the demo bundle with one weight file changed."""
    copy = folder / "model"
    shutil.copytree(BUNDLE.folder, copy)
    tensors = load_file(copy / file)
    save_file(change(tensors), copy / file)
    return find_bundle(copy)


CASES = {
    "VAE, missing": (
        "Wan2.1_VAE.safetensors",
        without("decoder.head"),
        "load_bundle_vae",
        r"Wan 2\.1 VAE.*missing: dec",
    ),
    "VAE, shape": ("Wan2.1_VAE.safetensors", halved("conv2.weight"), "load_bundle_vae", r"VAE.*latent channels|shape"),
    "voice, missing": (
        "wav2vec2/model.safetensors",
        without("layers.0.attention"),
        "load_bundle_audio_encoder",
        "missing",
    ),
    "text, missing": (
        "umt5/model.safetensors",
        without("layer.0.SelfAttention.q"),
        "load_bundle_clip",
        "weights are missing",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_part_is_refused(pack: ModuleType, tmp_path, case):
    file, change, load, match = CASES[case]
    module = "bundle_clip" if load == "load_bundle_clip" else "bundle_parts"
    nodes = importlib.import_module(f"{pack.__name__}.{folder_of(module)}.{module}")
    with pytest.raises(ValueError, match=match):
        getattr(nodes, load)(damaged(tmp_path, file, change))
