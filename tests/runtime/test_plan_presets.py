"""Plans by name: what they decide is what nodes, page and help pages say."""

import re
from fractions import Fraction
from pathlib import Path

import pytest

from liveavatar_runtime.duration import clips_for_duration, duration
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.planning.plan_presets import CUSTOM, PRESETS, decided, preset_note

ROOT = Path(__file__).parents[2]
PAGES = ("web/docs/LiveAvatar_ClipScheduler.md", "web/docs/LiveAvatar_ClipScheduler/zh.md")
WIDGETS = {"num_clip": 5, "infer_frames": 48, "fps": 16.0, "width": 688, "height": 368, "steps": 3, "size": CUSTOM}


def test_saved_names_stay():
    assert list(PRESETS) == ["check", "60 s", "120 s", "180 s delivery", "long form"]


@pytest.mark.parametrize("name", [name for name in PRESETS if name[0].isdigit()])
def test_a_preset_lasts_as_its_name_says(name):
    preset, seconds = PRESETS[name], int(name.split()[0])
    fps = Fraction(preset.fps)
    assert preset.num_clip == clips_for_duration(Fraction(seconds), preset.infer_frames, fps)
    assert 0 <= duration(preset.num_clip, preset.infer_frames, fps) - seconds < preset.infer_frames / fps
    assert preset.steps == 4, "the model was distilled for 4"


def test_a_check_is_ten_small_clips_with_three_steps():
    widgets = PRESETS["check"].widgets()
    assert [widgets[name] for name in ("num_clip", "size", "steps")] == [10, "384x256", 3]


def test_a_preset_decides_and_says_which_widgets_it_does_not_take():
    assert decided(CUSTOM, WIDGETS) == WIDGETS and preset_note(CUSTOM, WIDGETS) == ""
    assert decided("120 s", WIDGETS) == {**WIDGETS, **PRESETS["120 s"].widgets()}
    said = "preset 120 s: num_clip 40 instead of 5, steps 4 instead of 3, size 688x368 instead of custom"
    assert preset_note("120 s", WIDGETS) == said
    assert preset_note("120 s", {**WIDGETS, **PRESETS["120 s"].widgets()}) == ""
    other = {**WIDGETS, **PRESETS["check"].widgets(), "fps": 29.97, "size": "720x400"}
    assert preset_note("check", other) == "preset check: fps 16 instead of 29.97, size 384x256 instead of 720x400"


@pytest.mark.parametrize(
    ("size", "width", "height", "video"),
    [
        (CUSTOM, 688, 368, "384x256"),
        (CUSTOM, 640, 640, "304x304"),
        (CUSTOM, 368, 688, "256x384"),
        ("720x400", 1, 2, "384x256"),
        ("368x688", 2, 1, "256x384"),
        ("496x496", 2, 1, "304x304"),
    ],
)
def test_upright_and_square_stay_so(size, width, height, video):
    assert decided("check", {**WIDGETS, "size": size, "width": width, "height": height})["size"] == video


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="preset is '90 s'; allowed are custom, check, 60 s"):
        decided("90 s", WIDGETS)


@pytest.mark.parametrize("page", PAGES)
def test_the_help_page_has_the_table(page):
    """One row a preset: clips, area, steps and seconds."""
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| (\w+) \| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    shown = {name: (int(clips), size, int(steps)) for name, clips, size, steps, _ in rows}
    assert shown == {name: (one.num_clip, one.size, one.steps) for name, one in PRESETS.items()}
    for name, clips, *_, video in rows:
        preset = PRESETS[name]
        seconds = duration(int(clips), preset.infer_frames, Fraction(preset.fps)) if int(clips) else None
        assert seconds is None or video == f"{seconds} s"
    assert len({(one.infer_frames, one.fps) for one in PRESETS.values()}) == 1
