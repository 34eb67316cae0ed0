"""Trees of ComfyUI's core whose weights lie at odd places: the same bits, and core patches them as ever."""

import torch
from core_latents import MODEL_FILE, adopted, latents
from test_aligned import at
from test_core_model import MODULES, write_lora

from liveavatar_runtime.aligned import is_aligned
from liveavatar_runtime.checkpoint.transformer import load_transformer


def test_a_patched_tree_gives_the_same_bits_wherever_it_lies(core_model, tmp_path):
    """Also those of the runtime's own loader, so ComfyUI and workers agree; and again after core has unpatched it."""
    lora = [(write_lora(tmp_path / "lora.safetensors", "peft", MODULES), 0.8)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    plain, patched = (latents(load_transformer(MODEL_FILE, loras, torch.float32)) for loras in ([], lora))
    patcher = core_model.load_with_core(MODEL_FILE, lora, torch.float32)
    tree = patcher.model.diffusion_model
    for parameter in tree.parameters():
        parameter.data = at(parameter.data, 20)
    for _ in range(2):
        assert torch.equal(latents(adopted(core_model, patcher)), patched)
        assert all(map(is_aligned, tree.parameters()))
        patcher.detach()
    own = core_model.load_with_core(MODEL_FILE, [], torch.float32).model.diffusion_model.state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in tree.state_dict().items())
    patcher.patches = {}
    assert torch.equal(latents(adopted(core_model, patcher)), plain)
    torch.set_num_threads(threads)
