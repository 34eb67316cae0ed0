"""Sizes by name: valid for a plan, no dearer than they say, and told when a model does not know them."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from liveavatar_runtime.config import DEMO, WAN_S2V_14B
from liveavatar_runtime.planning.memory import cache_bytes
from liveavatar_runtime.planning.size_presets import LANDSCAPE, PRESETS, unsuitable_size
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan

GIB = 2**30
PLAN = ClipPlan(num_clip=1, infer_frames=48, fps=Fraction(16), width=688, height=368, keep_aspect=False)


def caches(width: int, height: int) -> float:
    return cache_bytes(Workload(WAN_S2V_14B, replace(PLAN, width=width, height=height))) / GIB


@pytest.mark.parametrize("name", PRESETS)
def test_the_video_has_exactly_the_size_of_its_name(name):
    width, height = PRESETS[name]
    plan = replace(PLAN, width=width, height=height).fitted_to(1080, 1920)
    assert f"{plan.width}x{plan.height}" == name


def test_every_lying_size_is_there_square_and_upright_and_no_dearer():
    assert len(PRESETS) == 3 * len(LANDSCAPE)
    for number, (width, height) in enumerate(LANDSCAPE):
        lying, square, upright = list(PRESETS.values())[number :: len(LANDSCAPE)]
        assert lying == (width, height) == upright[::-1] and square[0] == square[1]
        assert 0.9 * caches(*lying) < caches(*square) <= caches(*lying) == caches(*upright)


def test_the_tooltip_says_what_the_plan_says():
    source = (Path(__file__).parents[2] / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")
    told = re.search(r"4 steps: (.*?), as much upright", source)
    assert told
    numbers = {name: int(size) for size, name in re.findall(r"(\d+)(?: GiB)? for (\d+x\d+)", told[1])}
    assert numbers == {f"{width}x{height}": round(caches(width, height)) for width, height in LANDSCAPE}


@pytest.mark.parametrize(
    ("config", "made_for", "size", "told"),
    [
        (WAN_S2V_14B, None, (64, 64), "64x64 is less than the 14B model knows"),
        (WAN_S2V_14B, None, (384, 256), ""),
        (WAN_S2V_14B, None, (256, 384), ""),
        (DEMO, (64, 64), (128, 64), "only knows 64x64 pixels, and the video is 128x64"),
        (DEMO, (64, 64), (64, 64), ""),
        (DEMO, None, (128, 128), ""),
    ],
)
def test_a_size_that_the_model_does_not_know_is_told(config, made_for, size, told):
    text = unsuitable_size(config, made_for, replace(PLAN, width=size[0], height=size[1]))
    assert (told in text) and bool(text) == bool(told)
