"""The official archive's text encoder through ComfyUI's T5, against the original's outputs and the repackaged form."""

import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.umt5 import IN_LAYER, TOP, hugging_face_names, infer_config, is_archive

ROOT = Path(__file__).parents[2]
GOLDEN = Path(os.environ.get("LIVEAVATAR_GOLDEN", ROOT / "tests" / "golden" / "data"))
FILE = "t5_text_encoder.safetensors"
DEMO = find_bundle(ROOT / "demo" / "liveavatar-demo")


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    loaded = load_file(GOLDEN / FILE)
    return {name: value.float() if value.is_floating_point() else value for name, value in loaded.items()}


def test_outputs_of_the_original(comfy, stored):
    import comfy.ops
    from comfy.text_encoders.t5 import T5

    archive = {n.removeprefix("weights."): t for n, t in stored.items() if n.startswith("weights.")}
    assert is_archive(archive)
    weights = hugging_face_names(archive)
    config = infer_config(weights)
    about = json.loads((GOLDEN / "manifest.json").read_text())["files"][FILE]["config"]
    assert (config["d_model"], config["num_heads"], config["num_layers"]) == (
        about["dim"],
        about["num_heads"],
        about["num_layers"],
    )
    model = T5(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    model.load_state_dict(weights, strict=True)
    with torch.inference_mode():
        out, _ = model(stored["ids"], stored["mask"])
    for row, mask in enumerate(stored["mask"]):
        expected = stored[f"out.sample{row}"]
        torch.testing.assert_close(out[row, : int(mask.sum())], expected, atol=1e-5, rtol=0)


@pytest.fixture
def official_folder(tmp_path) -> Path:
    """The demo model as the official folder has it: text encoder as .pth in the archive's names, tokenizer apart."""
    shutil.copytree(DEMO.folder, tmp_path / "model")
    folder = tmp_path / "model"
    assert DEMO.text_encoder and DEMO.tokenizer
    backwards = {name: short for short, name in IN_LAYER.items()}
    archive: dict[str, Any] = {}
    for name, tensor in load_file(DEMO.text_encoder).items():
        top = [short for short, long in TOP.items() if long == name]
        if top:
            archive[top[0]] = tensor
        else:
            number, rest = name.removeprefix("encoder.block.").split(".", 1)
            archive[f"blocks.{number}.{backwards[rest.removesuffix('.weight')]}.weight"] = tensor
    torch.save(archive, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    (folder / "google" / "umt5-xxl").mkdir(parents=True)
    shutil.copyfile(DEMO.tokenizer, folder / "google" / "umt5-xxl" / "spiece.model")
    shutil.rmtree(folder / "umt5")
    return folder


def test_the_official_folder_gives_the_same_conditioning(pack, official_folder):
    load = importlib.import_module(f"{pack.__name__}.comfy_bridge.bundle_clip").load_bundle_clip

    def conditioning(bundle: Any) -> torch.Tensor:
        clip = load(bundle)
        return clip.encode_from_tokens_scheduled(clip.tokenize("a person talks in front of a red wall"))[0][0]

    assert torch.equal(conditioning(find_bundle(official_folder)), conditioning(DEMO))
