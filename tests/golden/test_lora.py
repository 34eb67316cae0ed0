"""LoRA merging against the original's PEFT: merged weights, and the forward through them."""

import re

import pytest
import torch
from lora_merging import MergedLora, merge_lora
from rollout import TOLERANCE, single_velocity

from liveavatar_runtime.dit.model import CausalWanS2V

WEIGHT_TOLERANCE = {"atol": 1e-5, "rtol": 0}
FILES = {"full": "lora.safetensors", "prefixed_partial": "lora_prefixed_partial.safetensors"}


def merged(golden, kind: str) -> MergedLora:
    about = golden.json("lora.json")
    alpha = golden.about(FILES[kind]).get("alpha", about["alpha"])
    return merge_lora(golden.tensors("dit.safetensors"), golden.tensors(FILES[kind]), alpha=alpha)


def test_merged_weights(golden):
    ours, compared = merged(golden, "full").tensors, 0
    for name, expected in golden.tensors("lora_merged.safetensors").items():
        if name.startswith("merged."):
            torch.testing.assert_close(ours[name.removeprefix("merged.")], expected, **WEIGHT_TOLERANCE)
            compared += 1
    assert compared


def test_exactly_the_originals_modules_change(golden):
    about, base = golden.json("lora.json"), golden.tensors("dit.safetensors")
    ours = merged(golden, "full")
    assert sorted(ours.tensors) == sorted(about["changed_keys.full"])
    assert sorted(ours.matched) == sorted(about["matched_modules"])
    assert not ours.unmatched
    assert all(not torch.equal(tensor, base[name]) for name, tensor in ours.tensors.items())


def test_prefix_and_missing_modules(golden):
    ours = merged(golden, "prefixed_partial")
    stored = golden.tensors(FILES["prefixed_partial"])
    modules = {re.sub(r"^base_model\.model\.|\.lora_[AB]\..*$", "", name) for name in stored}
    assert set(ours.matched) == modules
    full = merged(golden, "full").tensors
    for name, tensor in ours.tensors.items():
        torch.testing.assert_close(tensor, full[name], **WEIGHT_TOLERANCE)


def test_names_without_the_adapter_name(golden):
    """A normal PEFT export, which the original silently ignores, merges to the same weights."""
    base, alpha = golden.tensors("dit.safetensors"), golden.json("lora.json")["alpha"]
    plain = {name.replace(".default.", "."): tensor for name, tensor in golden.tensors(FILES["full"]).items()}
    assert not any(".default." in name for name in plain)
    ours, expected = merge_lora(base, plain, alpha=alpha).tensors, merged(golden, "full").tensors
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_scale_without_alpha_is_the_one_the_original_uses(golden):
    yaml = golden.json("lora.json")["upstream_yaml"]
    base, lora = golden.tensors("dit.safetensors"), golden.tensors(FILES["full"])
    rank = next(tensor.shape[0] for name, tensor in lora.items() if ".lora_A." in name)
    expected = merge_lora(base, lora, alpha=rank * yaml["lora_alpha"] / yaml["lora_rank"]).tensors
    ours = merge_lora(base, lora).tensors
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", FILES)
def test_forward_with_merged_weights(golden, kind):
    model = CausalWanS2V(golden.config)
    model.load_state_dict({**golden.tensors("dit.safetensors"), **merged(golden, kind).tensors}, strict=True)
    ours = single_velocity(golden, model.eval().requires_grad_(False), pose=None)
    expected = golden.tensors("lora_merged.safetensors")[f"noise_pred.{kind}"]
    torch.testing.assert_close(ours, expected, **TOLERANCE)
