"""What a device cannot do is told by the nodes before anything is loaded."""

import importlib
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from pack_modules import folder_of

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.dit.placement import Placement, StoredType
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.planning.device import RESERVED_SHARE
from liveavatar_runtime.planning.memory import CacheChoice, working_bytes

CPU, MPS, DIRECTML = torch.device("cpu"), torch.device("mps"), torch.device("privateuseone")


@pytest.fixture(scope="module")
def node(pack: ModuleType) -> Any:
    """A module of the pack's nodes, by name."""
    return lambda name: importlib.import_module(f"{pack.__name__}.{folder_of(name)}.{name}")


def sampled_on(node: Any, device: torch.device, **widgets: Any) -> None:
    """DiT Sampler with a model for a device, and nothing else connected that it could begin with."""
    model = node("avatar").AvatarModel(None, WAN_S2V_14B, torch.bfloat16, "local", (device,))
    nothing = dict.fromkeys(("positive", "vae", "image", "avatar_audio", "plan"))
    node("dit_sampler").DiTSampler.execute(model, **nothing, **widgets)


def test_caches_in_fp8_are_refused_on_mps(node) -> None:
    with pytest.raises(InputError, match="kv_dtype is fp8, and mps cannot hold 8-bit floating-point numbers; set it"):
        sampled_on(node, MPS, kv_dtype="fp8")


def test_weights_in_fp8_are_refused_on_mps(node) -> None:
    node("device_checks").check_precision("fp8_e4m3fn", CPU)
    with pytest.raises(InputError, match="precision is fp8_e4m3fn, and mps cannot hold"):
        node("device_checks").check_precision("fp8_e4m3fn", MPS)


def test_compile_without_a_compiler_is_refused_before_anything_else(node, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        MachineError, match=r"compile is on, and torch.compile cannot work here. The C\+\+ compiler .* turn"
    ):
        sampled_on(node, CPU, compile=True)


def test_directml_tells_no_memory(node, monkeypatch) -> None:
    """ComfyUI says 1 GiB of every such device, with which nothing would fit."""
    import comfy.model_management as management

    bridge, checks = node("memory"), node("device_checks")
    assert bridge.tells_memory(DIRECTML) and checks.unknown_memory([CPU, MPS]) is None
    monkeypatch.setattr(management, "directml_enabled", True)
    assert bridge.device_memory(DIRECTML) == 2**30 and not bridge.tells_memory(DIRECTML) and bridge.tells_memory(CPU)
    assert "how much memory privateuseone has (DirectML)" in checks.unknown_memory([DIRECTML])


@pytest.mark.parametrize("device", [MPS, torch.device("xpu", 0), DIRECTML])
@pytest.mark.parametrize("executor", ["layer_pipeline", "timestep_pipeline"])
def test_auto_devices_are_refused_where_comfyui_uses_another_gpu(node, monkeypatch, device, executor) -> None:
    import comfy.model_management as management

    worker_model = node("worker_model")
    monkeypatch.setattr(management, "get_torch_device", lambda: device)
    with pytest.raises(InputError, match=f"not on {device.type}, which this machine has. Set executor to local"):
        worker_model.chosen_places(executor, "auto")
    assert worker_model.chosen_places("local", "auto") == []
    assert worker_model.chosen_places(executor, "cpu") == [CPU]


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_fsdp_is_refused_where_it_does_not_run(node, monkeypatch, system) -> None:
    monkeypatch.setattr("sys.platform", system)
    with pytest.raises(
        InputError, match=f"fsdp in workers: .* on Linux only, and this is {system}: .*What works here: executor local"
    ):
        node("worker_model").chosen_places("fsdp", "auto")


def test_a_processors_memory_is_counted_once(node, core_model) -> None:
    """The plan knows that device and system memory are one there, and what of the weights they hold."""
    from core_latents import BUNDLE, MODEL_FILE, PLAN

    loaded = node("bundle_parts").load_bundle_vae(BUNDLE)
    streaming = node("vae").managed_vae(loaded)
    avatar = core_model.adopt(core_model.load_with_core(MODEL_FILE, [], torch.float32))
    job = node("sampling_job").SamplingJob(avatar, PLAN, streaming)
    hardware = node("hardware")
    (device,), work = hardware.machines_of(job).devices, job.work
    assert device.pool == device.memory and work.on_disk_bytes == 0 and work.weights(work.layers) > 0
    held = next(iter(avatar.patcher.model.parameters()))
    held.stays_on_disk = True
    assert replace(job).work.on_disk_bytes == held.nbytes


def test_pinned_memory_stays_in_comfyuis_budget(node, monkeypatch) -> None:
    """The budget is core's; that it pins is the card's part."""
    import comfy.model_management as core

    memory, buffer = node("memory"), torch.empty(1000, dtype=torch.uint8)
    pinned = list[int]()

    def pin(tensor: torch.Tensor) -> bool:
        pinned.append(tensor.nbytes)
        return True

    monkeypatch.setattr(core, "pin_memory", pin)
    for limit, taken, possible in ((-1, 0, False), (1000, 1, False), (1000, 0, True)):
        monkeypatch.setattr(core, "MAX_PINNED_MEMORY", limit)
        monkeypatch.setattr(core, "TOTAL_PINNED_MEMORY", taken)
        assert memory.CorePinning().pin(buffer) is possible
    assert pinned == [1000]
    assert memory.pinning_warning(1000) == ""
    assert memory.pinning_warning(3 << 30).startswith("3.0 GiB of 3.0 GiB of KV caches in RAM cannot be pinned")
    assert "pins 0.0 GiB more at most. kv_dtype fp8" in memory.pinning_warning(3 << 30)
    monkeypatch.setattr(core, "MAX_PINNED_MEMORY", -1)
    assert "without --disable-pinned-memory" in memory.pinning_warning(1)


def test_what_auto_keeps_caches_as_depends_on_the_whole_machine(node, core_model, monkeypatch) -> None:
    """Never on what is free at the moment, which would change the video from one run to the next."""
    from core_latents import BUNDLE, MODEL_FILE, PLAN

    vae = node("vae").managed_vae(node("bundle_parts").load_bundle_vae(BUNDLE))
    avatar = core_model.adopt(core_model.load_with_core(MODEL_FILE, [], torch.float32))
    job = node("sampling_job").SamplingJob(avatar, PLAN, vae)
    hardware, choose = node("hardware"), node("executor_choice").choose_executor
    plain = choose(job, CacheChoice())
    assert plain.placement.kv_dtype == "model" and plain.warning == ""

    def needed(stored: StoredType) -> int:
        placement = Placement("device", stored)
        weights = int(job.work.weights(job.work.layers))
        return weights + working_bytes(job.work, placement) + job.decoder_bytes

    between = int((needed("fp8") + needed("model")) / 2 / (1 - RESERVED_SHARE))
    monkeypatch.setattr(hardware, "device_memory", lambda device: between)
    lowered = choose(job, CacheChoice())
    assert lowered.placement.kv_dtype == "fp8"
    assert lowered.warning.startswith("kv_dtype auto keeps the KV caches as fp8, because those in the model's dtype")
    monkeypatch.setattr(hardware, "free_ram", lambda: 0)
    assert hardware.in_all(job, hardware.machines_of(job)).devices[0].ram > 0
    with pytest.raises(MachineError, match="needs"):
        choose(job, CacheChoice(kv_dtype="model"))
