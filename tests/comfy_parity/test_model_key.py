"""The key of a connected MODEL: all that is loaded counts, and only that; read once for each model and each patch."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from core_latents import MODEL_FILE, header_of
from safetensors.torch import load_file, save_file
from test_core_model import MODULES, fp8_scaled, write_lora
from test_model_patches import nodes

WEIGHT = "blocks.1.ffn.0.weight"


@pytest.fixture(scope="module")
def key(pack) -> Any:
    return nodes(pack, "model_fingerprint").patcher_key


class Readings:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, done: int, total: int) -> None:
        self.count += done == total


def saved(file: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, file, metadata={"config": header_of(MODEL_FILE)["config"]})
    return file


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "fp8"])
def test_one_number_anywhere_makes_another_key(core_model, key, tmp_path, scaled):
    weights = fp8_scaled(load_file(MODEL_FILE)) if scaled else load_file(MODEL_FILE)
    keys = {key(core_model.load_with_core(saved(tmp_path / "0.safetensors", weights), [], None))}
    names = [
        WEIGHT,
        "head.head.bias",
        "trainable_cond_mask.weight",
        *(["blocks.0.ffn.2.scale_weight"] if scaled else ()),
    ]
    for number, name in enumerate(names, start=1):
        changed = weights[name].clone()
        flat = changed.view(-1)
        place = random.Random(number).randrange(len(flat))
        flat[place] = 1.5 * flat[place].float() + 0.25
        file = saved(tmp_path / f"{number}.safetensors", {**weights, name: changed})
        keys.add(key(core_model.load_with_core(file, [], None)))
    assert len(keys) == 1 + len(names)
    again = core_model.load_with_core(saved(tmp_path / "again.safetensors", weights), [], None)
    assert key(again) in keys


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_every_number_of_a_patch_counts(core_model, key, tmp_path, part):
    base = core_model.load_with_core(MODEL_FILE, [], None)
    lora = load_file(write_lora(tmp_path / "lora.safetensors", "peft", MODULES))
    name = next(name for name in lora if part in name)
    readings, keys = Readings(), {key(base)}
    size = lora[name].numel()
    places = [None, 0, 1, size // 2 + 1, size - 2, size - 1]
    for place in places:
        changed = lora[name].clone()
        if place is not None:
            changed.view(-1)[place] += 0.5
        save_file({**lora, name: changed}, tmp_path / "changed.safetensors")
        patched = core_model.with_loras(base, [(tmp_path / "changed.safetensors", 0.5)])[0]
        keys.add(key(patched, readings))
        assert key(patched.clone()) in keys
    assert len(keys) == 1 + len(places) and readings.count == len(places), "the model itself was read once, before"


def test_what_is_loaded_and_patched_in_place_keeps_its_key(core_model, key, tmp_path):
    lora = write_lora(tmp_path / "lora.safetensors", "peft", MODULES)
    fresh, used = (core_model.load_with_core(MODEL_FILE, [(lora, 0.8)], None) for _ in range(2))
    first = key(fresh)
    used.load(torch.device("cpu"))
    assert key(used) == first and key(fresh) == first
    used.unpatch_model(torch.device("cpu"))
    assert key(used.clone()) == first


def test_weights_that_a_node_changes_in_place_are_noticed(core_model, key):
    patcher = core_model.load_with_core(MODEL_FILE, [], None)
    readings = Readings()
    first = key(patcher, readings)
    count = readings.count
    assert key(patcher, readings) == first and readings.count == count
    with torch.no_grad():
        patcher.model.diffusion_model.get_parameter(WEIGHT).mul_(1.01)
    assert key(patcher, readings) != first and readings.count == count + 1


def test_what_other_packs_keep_packed_counts_with_what_it_is(pack, tmp_path):
    """As ComfyUI-GGUF has its weights: the bytes of the file, with their type and the shape noted on the tensor."""
    stored_parts = nodes(pack, "model_fingerprint").stored_parts

    class Packed(torch.Tensor):
        tensor_type: Any
        tensor_shape: Any

    def parts(kind: str) -> list[Any]:
        weight = torch.arange(34, dtype=torch.uint8).as_subclass(Packed)
        weight.tensor_type, weight.tensor_shape = kind, torch.Size([2, 16])
        return [part.tolist() if isinstance(part, torch.Tensor) else part for _, part in stored_parts("w", weight)]

    assert parts("Q8_0") == parts("Q8_0") != parts("Q4_0")
    assert list(range(34)) in parts("Q8_0")
