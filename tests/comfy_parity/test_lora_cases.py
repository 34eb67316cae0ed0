"""LoRAs of every kind and naming on the demo model: applied as core's own loader does it, or as a known twin.

Compared are the patched weights, and the latents of one clip as the DiT Sampler makes them.
"""

from pathlib import Path
from typing import Any

import lora_cases
import pytest
import torch
from core_latents import MODEL_FILE, adopted, latents, relative_difference
from lora_cases import lora_case
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.errors import CheckpointError
from liveavatar_runtime.sampling.plan import ClipPlan

CLIP = ClipPlan(num_clip=1, infer_frames=12, width=64, height=64, keep_aspect=False)
LIKE_CORE = ("dp", "lx", "dora", "loha", "lokr_aitoolkit", "lokr", "glora", "oft", "boft")
TWINS = {
    "diffsynth": "dp",
    "pd": "dp",
    "lyc": "dp",
    "un": "dp",
    "bmd": "dp",
    "dif": "dp",
    "fun": "ky",
    "dora_peft": "dora",
}
MERGED_BY_WORKERS = ("dp", "ky", "dif", "pat", "lx", "loha", "lokr_aitoolkit", "lokr")
STRENGTH = 0.7
PREFIX = "diffusion_model."


class Bench:
    """The demo model with LoRAs, loaded once each."""

    def __init__(self, core_model: Any, folder: Path) -> None:
        self._core_model, self._folder = core_model, folder
        self._plain = core_model.load_with_core(MODEL_FILE, [], torch.float32)
        self._kept: dict[str, tuple[dict[str, Tensor], Tensor]] = {}

    def file(self, name: str) -> Path:
        return lora_case(name, self._folder)

    def plain(self) -> tuple[dict[str, Tensor], Tensor]:
        return self._of("plain", self._plain)

    def ours(self, name: str) -> tuple[dict[str, Tensor], Tensor]:
        return self.of_file(self.file(name))

    def cores(self, name: str) -> tuple[dict[str, Tensor], Tensor]:
        """As the node Load LoRA applies the file."""
        import comfy.sd

        patched, _ = comfy.sd.load_lora_for_models(self._plain, None, load_file(self.file(name)), STRENGTH, 0.0)
        return self._of(f"core's {name}", patched)

    def of_file(self, path: Path) -> tuple[dict[str, Tensor], Tensor]:
        return self._of(str(path), self._core_model.with_loras(self._plain, [(path, STRENGTH)])[0])

    def _of(self, name: str, patcher: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Weights after patching, and latents."""
        if name not in self._kept:
            model = adopted(self._core_model, patcher)
            weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
            self._kept[name] = weights, latents(model, plan=CLIP)
            patcher.unpatch_model()
        return self._kept[name]


@pytest.fixture(scope="module")
def bench(core_model, tmp_path_factory) -> Bench:
    return Bench(core_model, tmp_path_factory.mktemp("loras"))


def assert_same_change(bench: Bench, ours: tuple[dict, Tensor], expected: tuple[dict, Tensor]) -> None:
    """Weights change alike, to rounding; latents to a hundredth of what the LoRA does to them at least."""
    weights, made = bench.plain()
    changed = [name for name in weights if not torch.equal(expected[0][name], weights[name])]
    assert changed
    for name in weights:
        if name in changed:
            assert relative_difference(ours[0][name] - weights[name], expected[0][name] - weights[name]) < 1e-4, name
        else:
            assert torch.equal(ours[0][name], weights[name]), name
    assert relative_difference(expected[1], made) > 0.02
    assert relative_difference(ours[1], expected[1]) < 0.01


@pytest.mark.parametrize("name", LIKE_CORE)
def test_every_kind_is_applied_as_core_applies_it(bench, name):
    assert_same_change(bench, bench.ours(name), bench.cores(name))


@pytest.mark.parametrize(("name", "twin"), TWINS.items())
def test_every_naming_equals_its_twin(bench, name, twin):
    assert_same_change(bench, bench.ours(name), bench.cores(twin) if twin in LIKE_CORE else bench.ours(twin))


def test_alpha_of_one_module(bench):
    """`pat` is `dp` with one module four times as strong: its weight, and latents that neither strength gives."""
    weights, (made, alike) = bench.plain()[0], (bench.ours("pat"), bench.cores("dp"))
    for name in weights:
        factor = 4.0 if name == "blocks.0.self_attn.q.weight" else 1.0
        change = alike[0][name] - weights[name]
        if change.any():
            assert relative_difference(made[0][name] - weights[name], factor * change) < 1e-4, name
    assert relative_difference(made[1], alike[1]) > 0.02


def test_several_changes_of_one_weight_add_up(bench, tmp_path):
    """Core takes one change of a weight from a file, and would drop the factors where there is a difference too."""
    factors = load_file(bench.file("dp"))
    name, difference = "blocks.0.self_attn.q.weight", lora_cases.draw(128, 128, seed=77) / 8
    save_file({**factors, "diffusion_model.blocks.0.self_attn.q.diff": difference}, tmp_path / "both.safetensors")
    weights, _ = bench.plain()
    changed = bench.of_file(tmp_path / "both.safetensors")[0][name] - weights[name]
    expected = bench.cores("dp")[0][name] - weights[name] + STRENGTH * difference
    assert relative_difference(changed, expected) < 1e-4


@pytest.mark.parametrize("name", MERGED_BY_WORKERS)
def test_workers_merge_the_same(bench, name):
    model = load_transformer(MODEL_FILE, [(bench.file(name), STRENGTH)], torch.float32)
    assert_same_change(bench, (model.state_dict(), latents(model, plan=CLIP)), bench.ours(name))


@pytest.mark.parametrize("name", ["dora", "dora_peft", "glora", "oft", "boft"])
def test_workers_refuse_by_name_what_only_core_applies(bench, name):
    kind = {"dora": "DoRA", "dora_peft": "DoRA", "glora": "GLoRA"}.get(name, name.upper())
    with pytest.raises(CheckpointError, match=rf"{name}\.safetensors holds {kind} changes .*executor local"):
        load_transformer(MODEL_FILE, [(bench.file(name), STRENGTH)], torch.float32)
