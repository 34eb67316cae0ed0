"""What DiT Sampler says of the states that it keeps."""

import importlib

import pytest
import torch
from core_latents import PLAN

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.planning.memory import ON_DEVICE


@pytest.mark.parametrize(
    ("choice", "gib", "told"),
    [("auto", 1000, False), ("fp8", 1000, True), ("model", 0, False), ("auto", 0, False), ("fp8", 0, False)],
)
def test_states_in_fp8_are_told_of_where_there_are_any(pack, choice, gib, told):
    spool_folder = importlib.import_module(f"{pack.__name__}.nodes.spool_folder")
    types = importlib.import_module(f"{pack.__name__}.nodes.types")
    model = types.AvatarModel(None, WAN_S2V_14B, torch.bfloat16, "local")
    settings, note = spool_folder.state_settings(model, PLAN, ON_DEVICE, choice, gib)
    assert (settings.fp8 and settings.allowed) == told == ("fp8" in note)
