"""The compile option on the modules of ComfyUI's core, which cast their weights when they are called."""

import pytest
import torch
from core_latents import MODEL_FILE, adopted, difference, latents


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn], ids=["float32", "fp8"])
def test_compiled_core_modules_give_the_same_latents(core_model, dtype):
    model = adopted(core_model, core_model.load_with_core(MODEL_FILE, [], dtype))
    expected = latents(model)
    torch._dynamo.reset()
    model.compile_layers(backend="aot_eager")
    try:
        assert difference(latents(model), expected) <= 1e-5
    finally:
        torch._dynamo.reset()
