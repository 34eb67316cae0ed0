"""Pipelines on module trees of ComfyUI's core: one patcher for each device, each with its layers only."""

import importlib
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from core_latents import BUNDLE, MODEL_FILE, PLAN, Features, latents
from test_core_model import MODULES, write_lora

from liveavatar_runtime.planning.memory import CacheChoice
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest

CPU, OTHER = torch.device("cpu"), torch.device("cpu", 0)
"""To ComfyUI two devices, though both are the processor."""


@pytest.fixture(scope="module")
def stage_models(pack) -> Any:
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.stage_models")


@pytest.fixture(scope="module")
def vae(pack) -> Any:
    nodes = f"{pack.__name__}.comfy_bridge"
    loaded = importlib.import_module(f"{nodes}.bundle_parts").load_bundle_vae(BUNDLE)
    return loaded, importlib.import_module(f"{nodes}.vae").managed_vae(loaded)


@pytest.fixture
def avatar(core_model, tmp_path) -> Any:
    torch.set_num_threads(1)
    lora = write_lora(tmp_path / "lora.safetensors", "peft", MODULES)
    return core_model.adopt(core_model.load_with_core(MODEL_FILE, [(lora, 0.8)], torch.float32))


def conditions(avatar: Any) -> Conditions:
    generator = torch.Generator().manual_seed(4)
    height, width = PLAN.latent_size
    return Conditions(
        text=torch.randn(20, avatar.config.text_dim, generator=generator),
        reference=torch.randn(16, 1, height, width, generator=generator),
        motion=torch.randn(16, 19, height, width, generator=generator),
        audio=Features(avatar.config.audio_dim),
    )


def chosen_for(stage_models: Any, avatar: Any, streaming: Any, plan: ClipPlan = PLAN) -> tuple[Any, Any]:
    """The job, and what is chosen for it."""
    choice = importlib.import_module(f"{stage_models.__name__.rpartition('.')[0]}.executor_choice")
    job = choice.SamplingJob(avatar, plan, streaming)
    return job, choice.choose_executor(job, CacheChoice())


def run(stage_models: Any, avatar: Any, streaming: Any, plan: ClipPlan = PLAN) -> torch.Tensor:
    from liveavatar_runtime.dit.attention import sdpa

    bridge = stage_models.__name__.rpartition(".")[0]
    job, chosen = chosen_for(stage_models, avatar, streaming, plan)
    executor = importlib.import_module(f"{bridge}.executors").executor_of(job, chosen, sdpa, False)
    return torch.cat([block.latents for block in executor.run(SamplingRequest(conditions(avatar), plan))], dim=1)


def local(stage_models: Any, avatar: Any) -> torch.Tensor:
    import comfy.model_management

    from liveavatar_runtime.dit.attention import sdpa

    comfy.model_management.load_models_gpu([avatar.patcher])
    return latents(stage_models.transformer_of(avatar, avatar.patcher, sdpa))


@pytest.mark.parametrize("executor", ["layer_pipeline", "timestep_pipeline"])
@pytest.mark.parametrize("devices", [(CPU, CPU), (CPU, OTHER), (OTHER, CPU, OTHER)])
def test_latents_equal_those_of_one_device(stage_models, avatar, vae, executor, devices):
    expected = local(stage_models, avatar)
    spread = replace(avatar, executor=executor, devices=devices)
    assert torch.equal(run(stage_models, spread, vae[1]), expected)


def test_each_device_holds_its_layers_only(stage_models, avatar, vae):
    spread = replace(avatar, executor="layer_pipeline", devices=(CPU, OTHER))
    stages = chosen_for(stage_models, spread, vae[1])[1].stages
    parts = {device: set(layers) for device, layers in zip(spread.devices, stages.layers, strict=True)}
    patchers = [stage_models.patcher_on(spread, device, layers) for device, layers in parts.items()]
    assert [patcher.load_device for patcher in patchers] == [CPU, OTHER]
    # Core's tree has a few numbers beside the weights, which every clone keeps.
    assert sum(patcher.model_size() for patcher in patchers) == pytest.approx(avatar.patcher.model_size(), rel=1e-3)
    assert all(patcher.model_size() < avatar.patcher.model_size() for patcher in patchers)
    # LoRA patches go with their layers; the clones stay for the next run.
    assert sum(len(patcher.patches) for patcher in patchers) == len(avatar.patcher.patches)
    assert [stage_models.patcher_on(spread, device, layers) for device, layers in parts.items()] == patchers


def test_the_node_says_what_each_device_does(stage_models, avatar, vae):
    for executor, text in (
        ("layer_pipeline", "cpu: layers 0 to 1\ncpu:0: layers 2 to 3"),
        ("timestep_pipeline", "cpu: steps 0 to 1\ncpu:0: steps 2 to 3"),
    ):
        spread = replace(avatar, executor=executor, devices=(CPU, OTHER))
        assert chosen_for(stage_models, spread, vae[1])[1].told[-1] == text


def test_a_device_beyond_the_steps_gets_no_model(stage_models, avatar, vae):
    one, two = (replace(avatar, executor="timestep_pipeline", devices=(CPU, OTHER)[:count]) for count in (1, 2))
    plan = replace(PLAN, steps=1)
    expected = run(stage_models, one, vae[1], plan)
    assert torch.equal(run(stage_models, two, vae[1], plan), expected)
    assert two not in stage_models._CLONES


def test_devices_are_measured_for_the_first_plan_only(stage_models, avatar, vae, caplog):
    caplog.set_level("INFO")
    spread = replace(avatar, executor="layer_pipeline", devices=(CPU, OTHER))
    # A size that no other test has.
    plan = replace(PLAN, width=192)
    first, second = (chosen_for(stage_models, spread, vae[1], plan)[1] for _ in range(2))
    assert first == second
    told = [record.getMessage() for record in caplog.records if "Measured on" in record.getMessage()]
    assert len(told) == 1 and float(re.findall(r" in ([\d.]+) s", told[0])[0]) < 2


def test_what_decides_nothing_is_not_measured(stage_models, pack, avatar, vae, caplog):
    """One device for all layers, one layer for each device, or steps that are shared out: nothing to split by speed."""
    caplog.set_level("INFO")
    choice = importlib.import_module(f"{pack.__name__}.comfy_bridge.executor_choice")
    # A size that no other test has.
    plan = replace(PLAN, width=256)
    layers = avatar.config.num_layers
    spreads = (("layer_pipeline", 1), ("layer_pipeline", layers), ("timestep_pipeline", 2), ("local", 2))
    for executor, count in spreads:
        spread = replace(avatar, executor=executor, devices=(CPU, OTHER, *[CPU] * (layers - 2))[:count])
        choice.choose_executor(choice.SamplingJob(spread, plan, vae[1]), CacheChoice())
    assert not [record for record in caplog.records if "Measured on" in record.getMessage()]
    chosen_for(stage_models, replace(avatar, executor="layer_pipeline", devices=(CPU, OTHER)), vae[1], plan)
    assert [record for record in caplog.records if "Measured on" in record.getMessage()]


def test_auto_is_decided_with_the_plan(pack, avatar, vae):
    choice = importlib.import_module(f"{pack.__name__}.comfy_bridge.executor_choice")
    for devices in ((CPU, OTHER), (CPU, CPU, OTHER)):
        spread = replace(avatar, executor="auto", devices=devices)
        chosen = choice.choose_executor(choice.SamplingJob(spread, PLAN, vae[1]), CacheChoice())
        assert chosen.stages.executor == "layer_pipeline"
        why, *_ = chosen.told
        assert re.fullmatch(r"auto chose layer_pipeline: the stages share one device, \d+ MiB each at most", why)
    for executor in ("local", "layer_pipeline", "timestep_pipeline"):
        chosen = replace(avatar, executor=executor, devices=(CPU, OTHER))
        found = choice.choose_executor(choice.SamplingJob(chosen, PLAN, vae[1]), CacheChoice())
        assert found.stages.executor == executor and not any("auto" in text for text in found.told)


def test_the_model_itself_runs_where_it_is_whole(stage_models, avatar):
    everything = set(range(avatar.config.num_layers))
    assert stage_models.patcher_on(avatar, CPU, everything) is avatar.patcher


def test_a_model_that_core_cannot_clone_is_refused(stage_models, avatar):
    avatar.patcher.cached_patcher_init = None
    with pytest.raises(RuntimeError, match="cannot be put on several GPUs.*Choose the file in Load Avatar Model"):
        stage_models.patcher_on(avatar, OTHER, {0, 1})
