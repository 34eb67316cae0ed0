"""What DiT Sampler says of the states that it keeps."""

import importlib

import pytest
import torch
from pack_modules import folder_of

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.dit.placement import Placement
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
        name: importlib.import_module(f"{pack.__name__}.{folder_of(name)}.{name}")
        for name in ("spool_folder", "avatar", "notes", "sampling_job")
    }
    model = nodes["avatar"].AvatarModel(None, WAN_S2V_14B, torch.bfloat16, "local")
    plan = ClipPlan(width=size[0], height=size[1], keep_aspect=False, segment_clips=segment_clips)
    job = nodes["sampling_job"].SamplingJob(model, plan, None)
    spool = nodes["spool_folder"].SpoolChoice("keep", 0, budget, choice)
    notes, placement = nodes["notes"].Notes(), Placement(batched=batched)
    settings = nodes["spool_folder"].state_settings(job, placement, spool, notes)
    (line,) = notes.lines
    assert says in line and numbers in line, line
    assert settings.allowed == (says != WARM_UP) and settings.fp8 == (says == IN_FP8) or not settings.allowed
    assert line.startswith("⚠ The segments") == (segment_clips > 0 and says != EXACT)
    assert ("After a stop this video" in line) == (segment_clips == 0)


@pytest.mark.parametrize(
    ("choice", "spool_budget", "says"),
    [
        (
            "auto",
            20,
            "from states in fp8 of 14.01 GiB: almost, not bit for bit. Exact ones would take 27.16 GiB (",
        ),
        ("auto", 12, "14.01 GiB in fp8 and beside the clips spool_budget leaves 11."),
        ("auto", 0, "bit for bit, from exact states"),
    ],
)
def test_states_only_take_what_spool_budget_leaves_beside_the_clips(pack, choice, spool_budget, says):
    spools, avatar, notes, jobs = (
        importlib.import_module(f"{pack.__name__}.{folder_of(name)}.{name}")
        for name in ("spool_folder", "avatar", "notes", "sampling_job")
    )
    model = avatar.AvatarModel(None, WAN_S2V_14B, torch.bfloat16, "local")
    plan = ClipPlan(num_clip=50, width=688, height=368, keep_aspect=False)
    told, spool = notes.Notes(), spools.SpoolChoice("keep", spool_budget, 30, choice)
    spools.state_settings(jobs.SamplingJob(model, plan, None), Placement(), spool, told)
    assert says in told.lines[0], told.lines
    assert spools.SpoolChoice("until ComfyUI ends", 1).bytes_allowed == 0


def test_a_video_whose_clips_are_more_than_the_budget_is_refused(pack, tmp_path):
    spools = importlib.import_module(f"{pack.__name__}.comfy_bridge.spool_folder")
    store = spools.SpoolStore(tmp_path)
    plan = ClipPlan(num_clip=500, width=688, height=368, keep_aspect=False)
    with pytest.raises(ValueError, match=r"spool_budget is 1\.00 GiB, and the clips of this video take 1\.\d+ GiB"):
        spools.make_room(store, store.open("a", {}), plan, spools.SpoolChoice("keep", 1).bytes_allowed, 1)


def test_a_budget_of_less_than_a_byte_is_a_budget(pack):
    spools = importlib.import_module(f"{pack.__name__}.comfy_bridge.spool_folder")
    assert [spools.SpoolChoice("keep", gib).bytes_allowed for gib in (0.0, 1e-12, 1.0)] == [0, 1, 2**30]
