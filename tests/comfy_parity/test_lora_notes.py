"""What Load Avatar Model says where no small model can be run: for the published sizes, and for workers elsewhere."""

import importlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from liveavatar_runtime.checkpoint.detect import expected_shapes
from liveavatar_runtime.checkpoint.lora_scale import live_avatar_modules
from liveavatar_runtime.checkpoint.lora_search import distils, look_alikes
from liveavatar_runtime.config import DEMO, WAN_S2V_14B

SHAPES = expected_shapes(DEMO)


def told(pack, source: str, changed: set[str] | frozenset[str] = frozenset(), bundle: bool = False) -> str:
    bridge = f"{pack.__name__}.comfy_bridge"
    notes = importlib.import_module(f"{bridge}.notes").Notes()
    model = importlib.import_module(f"{bridge}.avatar").AvatarModel(None, WAN_S2V_14B, torch.bfloat16)
    importlib.import_module(f"{bridge}.lora_notes").tell_distillation(notes, model, set(changed), Path(source), bundle)
    return str(notes)


@pytest.mark.parametrize("bundle", [False, True])
def test_where_to_get_it(pack, bundle):
    assert told(pack, "wan2.2_s2v_14B_bf16.safetensors", bundle=bundle) == (
        "⚠ No LoRA is applied: without the distillation, 4 steps give poor pictures; get liveavatar.safetensors from "
        "huggingface.co/Quark-Vision/Live-Avatar, put it into models/loras and choose it in lora. "
        "Only if it is merged into these weights already, nothing is missing."
    )


def test_a_name_that_says_it_is_merged(pack):
    """A fact, no warning: whoever chose such a file did the right thing."""
    assert told(pack, "Wan2.2-S2V-LiveAvatar-Q4_K_M.gguf").startswith("No LoRA is applied; the name Wan2.2-S2V-Live")


def test_with_it_nothing_is_said(pack):
    changed = {f"{module}.weight" for module in live_avatar_modules(expected_shapes(WAN_S2V_14B))}
    assert len(changed) == 448
    assert told(pack, "wan2.2_s2v_14B_bf16.safetensors", changed) == ""
    assert "None of the LoRAs applied" in told(pack, "wan2.2_s2v_14B_bf16.safetensors", set(list(changed)[1:]))


def whole(pattern: str = "diffusion_model.{}.lora_{}.weight") -> dict[str, torch.Tensor]:
    tensors = {}
    for module in live_avatar_modules(SHAPES):
        out, into = SHAPES[f"{module}.weight"]
        written = module.replace(".", "_") if "lora_unet" in pattern else module
        tensors |= {
            pattern.format(written, "down"): torch.zeros(2, into),
            pattern.format(written, "up"): torch.zeros(out, 2),
        }
    return tensors


def test_it_is_found_by_its_contents(tmp_path):
    files = {
        "any name": whole(),
        "kohya": whole("lora_unet_{}.lora_{}.weight"),
        "liveavatar": {"diffusion_model.blocks.0.self_attn.q.diff": torch.zeros(128, 128)},
        "one module less": dict(list(whole().items())[2:]),
        "another size": {name: torch.zeros(2, 2) for name in whole()},
    }
    paths = {name: tmp_path / f"{number}.safetensors" for number, name in enumerate(files)}
    for name, tensors in files.items():
        save_file(tensors, paths[name])
    # Behind the header nothing is read, so half a file is enough; what is no safetensors file looks like nothing.
    paths["half"] = tmp_path / "half.safetensors"
    paths["half"].write_bytes(paths["any name"].read_bytes()[:-1000])
    paths["damaged"] = tmp_path / "damaged.safetensors"
    paths["damaged"].write_bytes(b"\x20\0\0\0\0\0\0\0" + b"audio_injector".ljust(32))
    paths["empty"] = tmp_path / "empty.safetensors"
    paths["empty"].touch()
    assert look_alikes(paths, SHAPES) == ["any name", "kohya", "half"]
    assert distils({f"{module}.weight" for module in live_avatar_modules(SHAPES)}, SHAPES)


def test_loras_that_workers_elsewhere_do_not_load(pack):
    ignored = importlib.import_module(f"{pack.__name__}.comfy_bridge.lora_notes").ignored_loras
    own = Path("models/liveavatar/model/liveavatar.safetensors")
    assert ignored([(own, 1.0)], own) is None
    text = ignored([(own, 1.0), (Path("loras/style.safetensors"), 0.5)], own)
    assert text and text.startswith(
        "style.safetensors is not applied: the workers were started with LoRAs of their own"
    )
