"""What DiT Sampler says of the states that it keeps."""

import importlib

import pytest
import torch

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.planning.memory import Placement
from liveavatar_runtime.sampling.plan import ClipPlan

WARM_UP, IN_FP8, EXACT = "after a warm-up", "from states in fp8", "bit for bit, from exact states"


@pytest.mark.parametrize(
    ("size", "budget", "choice", "batched", "says", "numbers"),
    [
        ((688, 368), 8, "auto", False, WARM_UP, "one takes 27.16 GiB, 14.01 GiB in fp8 and state_budget is 8.00 GiB"),
        ((384, 256), 8, "auto", False, IN_FP8, "5.44 GiB: almost, not bit for bit. Exact ones would take 10.55 GiB"),
        ((384, 256), 8, "model", False, WARM_UP, "one takes 10.55 GiB and state_budget is 8.00 GiB"),
        ((688, 368), 28, "auto", False, EXACT, "27.16 GiB"),
        ((688, 368), 1000, "fp8", False, IN_FP8, "27.16 GiB (state_dtype)"),
        ((688, 368), 28, "auto", True, "equal up to rounding, as schedule is batched", "27.16 GiB"),
    ],
)
@pytest.mark.parametrize("segment_clips", [0, 2])
def test_how_a_video_goes_on_is_told_before(pack, size, budget, choice, batched, says, numbers, segment_clips):
    """First of all where segments do not go on bit for bit; else as a fact."""
    nodes = {
        name: importlib.import_module(f"{pack.__name__}.nodes.{name}") for name in ("spool_folder", "types", "notes")
    }
    model = nodes["types"].AvatarModel(None, WAN_S2V_14B, torch.bfloat16, "local")
    plan = ClipPlan(width=size[0], height=size[1], keep_aspect=False, segment_clips=segment_clips)
    notes, placement = nodes["notes"].Notes(), Placement(batched=batched)
    settings = nodes["spool_folder"].state_settings(model, plan, placement, choice, budget, notes)
    (line,) = notes.lines
    assert says in line and numbers in line, line
    assert settings.allowed == (says != WARM_UP) and settings.fp8 == (says == IN_FP8) or not settings.allowed
    assert line.startswith("⚠ The segments") == (segment_clips > 0 and says != EXACT)
    assert ("After a stop this video" in line) == (segment_clips == 0)
