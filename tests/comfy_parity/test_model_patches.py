"""Patches on a connected MODEL: those of the layers work as in core, on every executor; what decides has a key."""

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from core_latents import BUNDLE, MODEL_FILE, PLAN, Features, latents
from pack_modules import folder_of
from test_core_model import MODULES, write_lora
from test_dit import CONFIG, GRID, ours, theirs  # noqa: F401

from liveavatar_runtime.dit.attention import sdpa
from liveavatar_runtime.dit.kv_cache import ResidentCache, Sink
from liveavatar_runtime.dit.rope import REFERENCE_FRAME, join_factors, motion_rope, reference_rope
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.planning.memory import CacheChoice
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.run import SamplingRequest

CPU, OTHER = torch.device("cpu"), torch.device("cpu", 0)


def nodes(pack: Any, name: str) -> Any:
    return importlib.import_module(f"{pack.__name__}.{folder_of(name)}.{name}")


class Recorder:
    """An attention override that weakens the keys of odd layers, and two patches; all note where they were called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, float]] = []

    def note(self, what: str, options: dict[str, Any]) -> int:
        assert options["total_blocks"] and options["block_type"] == "double" and len(options["sample_sigmas"]) > 1
        self.calls.append((what, options["block_index"], round(options["sigmas"].item(), 4)))
        return options["block_index"]

    def override(self, func: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        layer = self.note("attention", kwargs["transformer_options"])
        return func(q, k * 0.5 if layer % 2 else k, v, *args, **kwargs)

    def self_patch(self, given: dict[str, Any]) -> torch.Tensor:
        layer = self.note("self", given["transformer_options"])
        # Left there for the other patch, as core lets them.
        given["transformer_options"]["left"] = given["q"].mean() + given["k"].mean()
        return given["x"] * (1.25 + layer)

    def text_patch(self, given: dict[str, Any]) -> torch.Tensor:
        self.note("text", given["transformer_options"])
        return given["x"] + given["transformer_options"]["left"]

    def options(self) -> dict[str, Any]:
        patches = {"attn1_patch": [self.self_patch], "attn2_patch": [self.text_patch]}
        return {"optimized_attention_override": self.override, "patches": patches}


def test_layers_with_hooks_equal_those_of_core(pack, ours, theirs):  # noqa: F811
    """On tokens that attend to each other only, which both know: those of the sink."""
    recorder = Recorder()
    options = recorder.options()
    text = torch.randn(20, CONFIG.text_dim)
    hidden = torch.randn(1, len(motion_rope(CONFIG.head_dim, GRID).cos) + GRID[0] * GRID[1], CONFIG.dim)
    video = ours.video_context(text, (700.0, 300.0), ours.layers, torch.float32, CPU)
    shape = ours.cache_shape(GRID, 2, 2, 3)
    cache = ResidentCache(shape, ours.layers, torch.float32, CPU)
    plain = ours.run_sink_layers(hidden, video, GRID, cache, Sink())
    ours.begin_row = lambda sigma, schedule: nodes(pack, "layer_hooks").CoreRow(options, 2, sigma, schedule)
    try:
        result = ours.run_sink_layers(hidden, video, GRID, cache, Sink())
    finally:
        ours.begin_row = None
    head_dim = CONFIG.head_dim
    rope = join_factors(reference_rope(head_dim, GRID, REFERENCE_FRAME), motion_rope(head_dim, GRID))
    freqs = torch.stack([rope.cos, -rope.sin, rope.sin, rope.cos], dim=-1).unflatten(-1, (2, 2))[None]
    context = ours.embed_text(text, torch.float32, CPU)
    given = {**options, "total_blocks": 2, "block_type": "double", "sigmas": torch.zeros(1)}
    given["sample_sigmas"] = torch.zeros(3)
    expected = hidden
    for number, block in enumerate(theirs.blocks):
        given["block_index"] = number
        expected = block(expected, e=video.clean.layers, freqs=freqs, context=context, transformer_options=given)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert (result - plain).norm() / plain.norm() > 0.01
    half = len(recorder.calls) // 2
    assert recorder.calls[:half] == recorder.calls[half:]
    assert [what for what, *_ in recorder.calls[:4]] == ["attention", "self", "attention", "text"]


@pytest.fixture
def avatar(core_model) -> Any:
    torch.set_num_threads(1)
    return core_model.adopt(core_model.load_with_core(MODEL_FILE, [], torch.float32))


def with_options(avatar: Any, options: dict[str, Any]) -> Any:
    clone = avatar.patcher.clone()
    clone.model_options["transformer_options"].update(options)
    return replace(avatar, loaded=clone)


def one_device(pack: Any, avatar: Any, **changes: Any) -> torch.Tensor:
    import comfy.model_management

    comfy.model_management.load_models_gpu([avatar.patcher])
    model = nodes(pack, "stage_models").transformer_of(avatar, avatar.patcher, changes.pop("kernel", sdpa))
    if not changes:
        return latents(model, avatar.dtype)
    executor = LocalExecutor(model, CPU, torch.float32, **changes)
    return torch.cat([block.latents for block in executor.run(SamplingRequest(conditions(avatar), PLAN))], dim=1)


def conditions(avatar: Any) -> Conditions:
    generator = torch.Generator().manual_seed(4)
    height, width = PLAN.latent_size
    return Conditions(
        text=torch.randn(20, avatar.config.text_dim, generator=generator),
        reference=torch.randn(16, 1, height, width, generator=generator),
        motion=torch.randn(16, 19, height, width, generator=generator),
        audio=Features(avatar.config.audio_dim),
    )


def test_an_override_that_changes_nothing_gives_the_same_bits(pack, avatar):
    plain = one_device(pack, avatar)
    passing = {"optimized_attention_override": lambda func, *args, **kwargs: func(*args, **kwargs)}
    kernels = sdpa, nodes(pack, "attention").attention
    for kernel in kernels:
        assert torch.equal(one_device(pack, with_options(avatar, passing), kernel=kernel), plain)


def test_hooks_see_each_evaluation_alone_on_every_executor(pack, avatar):
    """Also in a batch of several steps, and in stages with copies of the model."""
    choice = nodes(pack, "executor_choice")
    vae = nodes(pack, "vae").managed_vae(nodes(pack, "bundle_parts").load_bundle_vae(BUNDLE))
    recorders = [Recorder() for _ in range(3)]
    alone, together, staged = (with_options(avatar, recorder.options()) for recorder in recorders)
    expected = one_device(pack, alone)
    assert (expected - one_device(pack, avatar)).norm() / expected.norm() > 1e-3
    torch.testing.assert_close(one_device(pack, together, batched=True), expected, rtol=1e-4, atol=1e-4)
    spread = replace(staged, executor="layer_pipeline", devices=(CPU, OTHER))
    job = choice.SamplingJob(spread, PLAN, vae)
    executor = nodes(pack, "executors").executor_of(job, choice.choose_executor(job, CacheChoice()), sdpa, False)
    in_stages = torch.cat([block.latents for block in executor.run(SamplingRequest(conditions(avatar), PLAN))], dim=1)
    torch.testing.assert_close(in_stages, expected, rtol=1e-4, atol=1e-4)
    first, *others = (sorted(recorder.calls) for recorder in recorders)
    assert others == [first, first]
    assert {layer for _, layer, _ in first} == set(range(avatar.config.num_layers))
    assert {sigma for *_, sigma in first} == {0.0, 0.0089, 0.6022, 0.8577, 1.0}


def test_compiled_layers_call_the_hooks(pack, avatar):
    import comfy.model_management

    hooked = with_options(avatar, Recorder().options())
    expected = one_device(pack, hooked)
    comfy.model_management.load_models_gpu([hooked.patcher])
    model = nodes(pack, "stage_models").transformer_of(hooked, hooked.patcher, sdpa)
    torch._dynamo.reset()
    model.compile_layers(backend="aot_eager")
    try:
        torch.testing.assert_close(latents(model), expected, rtol=1e-4, atol=1e-4)
    finally:
        torch._dynamo.reset()


def test_a_clone_that_computes_in_another_dtype_leaves_the_others_alone(pack, core_model, avatar):
    """The patchers share a model, on which the last one used has put its dtype."""
    plain = one_device(pack, avatar)
    half = avatar.patcher.clone()
    half.set_model_compute_dtype(torch.bfloat16)
    rounded = core_model.adopt(half)
    assert rounded.dtype == torch.bfloat16
    assert 1e-3 < (one_device(pack, rounded) - plain).norm() / plain.norm() < 0.3
    again = core_model.adopt(avatar.patcher)
    assert again.dtype == torch.float32
    assert torch.equal(one_device(pack, again), plain)
    default = half.clone()
    default.set_model_compute_dtype(None)
    assert core_model.adopt(default).dtype == torch.float32


def test_what_decides_has_a_key_that_lasts(pack, avatar):
    def key(options: dict[str, Any]) -> tuple[str, ...]:
        return nodes(pack, "attention_choice").patches_key(with_options(avatar, options))

    def weakened(strength: float) -> dict[str, Any]:
        return {
            "optimized_attention_override": lambda func, q, k, *rest, **named: func(q, k * strength, *rest, **named)
        }

    assert key({}) == key({"rel_l1_thresh": 0.3}) == ()
    assert key(weakened(0.5)) == key(weakened(0.5)) != key(weakened(0.6))
    assert key({"patches": {"attn2_patch": [Recorder().text_patch]}}) not in ((), key(weakened(0.5)))


def test_what_holds_on_to_one_copy_is_refused_on_other_devices(pack, avatar):
    from comfy.patcher_extension import PatcherInjection

    check = nodes(pack, "worker_model").on_devices
    clone = avatar.patcher.clone()
    clone.set_injections("bypass_lora", [PatcherInjection(lambda patcher: None, lambda patcher: None)])
    bound = replace(avatar, loaded=clone)
    assert check(bound, "local", "cpu").executor == "local"
    with pytest.raises(ValueError, match="base_model brings .*which works on ComfyUI's own device only"):
        nodes(pack, "stage_models").patcher_on(bound, OTHER, {0, 1})


def test_a_lora_beside_the_layers_works_and_has_a_key(pack, avatar, tmp_path):
    """ComfyUI's Load LoRA (Bypass) hooks the layers instead of changing their weights."""
    import comfy.sd
    import comfy.utils

    tensors = comfy.utils.load_torch_file(str(write_lora(tmp_path / "lora.safetensors", "comfyui", MODULES)))

    def loaded(load: Any, strength: float) -> Any:
        return replace(avatar, loaded=load(avatar.patcher, None, tensors, strength, 0.0)[0])

    beside, stronger = (loaded(comfy.sd.load_bypass_lora_for_models, strength) for strength in (1.0, 2.0))
    key = nodes(pack, "attention_choice").patches_key
    assert key(beside) == key(loaded(comfy.sd.load_bypass_lora_for_models, 1.0)) != key(stronger) != ()
    assert nodes(pack, "model_patches").without_effect(beside.patcher) == []
    patched = one_device(pack, loaded(comfy.sd.load_lora_for_models, 1.0))
    assert (patched - one_device(pack, avatar)).norm() / patched.norm() > 1e-3
    torch.testing.assert_close(one_device(pack, beside), patched, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["diffusion_model", "diffusion_model.blocks.1"])
def test_what_a_node_compiled_is_told_and_runs_as_it_was(pack, core_model, avatar, name):
    """As older TorchCompileModel nodes and those for single blocks set it."""
    plain = one_device(pack, avatar)
    clone = avatar.patcher.clone()
    clone.add_object_patch(name, torch.compile(clone.get_model_object(name), backend="eager"))
    (told,) = nodes(pack, "model_patches").without_effect(clone)
    assert told == "base_model: TorchCompileModel has no effect here: switch on compile of DiT Sampler."
    assert torch.equal(one_device(pack, core_model.adopt(clone)), plain)


def test_workers_say_what_they_use(pack, avatar):
    """They have no other attention and do not compile; nothing is looked for in this process."""
    choose = nodes(pack, "attention_choice").choose_attention
    elsewhere = replace(avatar, loaded=None, workers=object())
    chosen = choose(elsewhere, "flash", True, ())
    assert (chosen.name, chosen.facts) == ("sdpa", ("Attention in the workers: PyTorch's (sdpa)",))
    assert chosen.warnings == (
        "attention flash has no effect with workers: they use PyTorch's (sdpa).",
        "compile has no effect with workers: they run the layers as they are.",
    )
    assert choose(elsewhere, "comfyui", False, ()).warnings == ()


@pytest.mark.parametrize(
    ("executor", "devices", "gpus", "told"),
    [
        ("auto", "auto", 4, "4 GPUs are here and one is used: set devices to cuda:0,cuda:1,cuda:2,cuda:3 to use all"),
        ("auto", "", 2, "2 GPUs are here and one is used: set devices to cuda:0,cuda:1 to use all, or executor to loc"),
        ("auto", "auto", 1, None),
        ("local", "auto", 4, None),
        ("auto", "cuda:0", 4, None),
        ("layer_pipeline", "auto", 4, None),
    ],
)
def test_idle_gpus_are_told(pack, executor, devices, gpus, told):
    present = [torch.device("cuda", number) for number in range(gpus)]
    text = nodes(pack, "worker_model").idle_devices(executor, devices, present)
    assert text is None if told is None else text.startswith(told)


def test_no_gpu_is_no_idle_one(pack):
    assert nodes(pack, "worker_model").idle_devices("auto", "auto", [CPU]) is None
