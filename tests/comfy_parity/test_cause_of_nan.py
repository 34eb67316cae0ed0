"""What is said of a model of core that gives values that are not numbers."""

from typing import Any

import pytest
import torch
from core_latents import MODEL_FILE, header_of
from safetensors.torch import load_file, save_file
from test_core_model import fp8_scaled
from test_model_patches import nodes

from liveavatar_runtime.sampling.video_key import Numerics

WEIGHT = "blocks.1.ffn.0.weight"


@pytest.fixture
def told(pack, core_model, tmp_path) -> Any:
    """The sentence for a model with these weights, a LoRA of ones at this strength, and a key if it is from a file."""

    def cause(weights: dict[str, torch.Tensor], precision: Any, strength: float = 0.0, key: str = "") -> str:
        file = tmp_path / "model.safetensors"
        save_file(weights, file, metadata={"config": header_of(MODEL_FILE)["config"]})
        loras = []
        if strength:
            rows, columns = weights[WEIGHT].shape
            module = WEIGHT.removesuffix(".weight")
            lora = {f"{module}.lora_A.weight": torch.ones(1, columns), f"{module}.lora_B.weight": torch.ones(rows, 1)}
            save_file(lora, tmp_path / "lora.safetensors")
            loras = [(tmp_path / "lora.safetensors", strength)]
        model = nodes(pack, "avatar").AvatarModel(
            *[
                getattr(core_model.adopt(core_model.load_with_core(file, loras, precision)), name)
                for name in ("patcher", "config", "dtype")
            ],
            key=key,
        )
        return nodes(pack, "cause_of_nan").cause_of_nan(model, Numerics("", "", "sage", "fp8"))

    return cause


def test_weights_loras_and_formats_are_told_apart(told):
    weights = load_file(MODEL_FILE)
    broken, large = (weights[WEIGHT].clone() for _ in range(2))
    broken[3, 5], large[3, 5] = float("nan"), 1e5
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    assert f"The model's weight {WEIGHT} holds such values, 1 of its" in told({**weights, WEIGHT: broken}, bf16)
    assert f"1 of its {large.numel():,} values of the weight {WEIGHT} became infinite in float16" in told(
        {**weights, WEIGHT: large}, fp16, key="of a file"
    )
    assert f"A LoRA makes the weight {WEIGHT} so" in told(weights, fp32, 1e39)
    assert f"A LoRA is too strong: it makes {WEIGHT}" in told(weights, fp32, 1e6)
    assert "only kv_dtype fp8 and attention sage is left as the cause" in told(weights, fp32, 0.01)


def test_a_scale_that_is_no_number_is_told(told):
    """Of a quantised layer the values that it stands for count."""
    weights = fp8_scaled(load_file(MODEL_FILE))
    weights["blocks.1.ffn.0.scale_weight"] = torch.tensor([3e38])
    assert f"The model's weight {WEIGHT} holds such values" in told(weights, None)
