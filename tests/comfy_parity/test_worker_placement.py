"""Where workers' caches go, and the refusal of FSDP where its gathered layers find no room; cards are made up."""

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.planning.memory import CacheChoice
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.texts import GIB

PLAN = ClipPlan(width=688, height=368, keep_aspect=False)
MODEL = CacheChoice(kv_dtype="model")


@pytest.fixture
def planned(pack: ModuleType, monkeypatch) -> Any:
    """The placement for an executor on four cards of so many GiB, with so much free RAM."""
    module = importlib.import_module(f"{pack.__name__}.comfy_bridge.worker_placement")
    avatar = importlib.import_module(f"{pack.__name__}.comfy_bridge.avatar")

    def place(executor: str, card: int, ram: int, caches: CacheChoice = MODEL) -> Any:
        monkeypatch.setattr(module, "device_memory", lambda device: (ram if device.type == "cpu" else card) * GIB)
        monkeypatch.setattr(module, "free_ram", lambda: ram * GIB)
        devices = tuple(torch.device("cuda", number) for number in range(4))
        model = avatar.AvatarModel(None, WAN_S2V_14B, torch.bfloat16, executor, devices, workers=object())
        job = SimpleNamespace(model=model, work=Workload(WAN_S2V_14B, PLAN), decoder_bytes=int(2.4 * GIB))
        return module.worker_placement(job, caches)

    return place


def test_fsdp_keeps_its_part_and_what_it_gathers_on_the_card(planned):
    found = planned("fsdp", 24, 256)
    assert found.kv_cache == "ram" and 0 < found.device_layers < 40


def test_fsdp_that_finds_no_room_names_the_executor_that_does(planned):
    with pytest.raises(MachineError) as told:
        planned("fsdp", 24, 64)
    text = str(told.value)
    assert "fsdp on 4 devices: each would have to hold" in text and "gather buffers 1.7 GiB" in text
    assert "With the same devices executor layer_pipeline fits." in text and "Plan Check" in text


def test_shards_are_not_streamed_from_ram(planned):
    # 8.1 GiB of weights and 1.7 gathered, beside the VAE: more than the card has, however much RAM there is.
    with pytest.raises(MachineError, match="weights 8.*No other executor fits"):
        planned("fsdp", 12, 512)


def test_auto_goes_down_to_fp8_first(planned):
    assert planned("fsdp", 24, 110, CacheChoice()).kv_dtype == "fp8"
