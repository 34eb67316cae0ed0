"""A preset of Clip Scheduler gives the plan that its widgets give, whatever the others say."""

import importlib

import pytest

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.planning.plan_presets import CUSTOM, PRESETS

OTHERS = {"num_clip": 3, "infer_frames": 24, "fps": 25.0, "width": 300, "height": 400, "steps": 7, "size": "720x400"}


@pytest.fixture
def plan_of(pack):
    """plan_of(**inputs): what Clip Scheduler gives, and its notes."""
    node = importlib.import_module(f"{pack.__name__}.nodes.clip_scheduler").ClipScheduler

    def planned(**inputs):
        output = node.execute(seed=7, **inputs)
        return output.args[0], output.ui["liveavatar_notes"]

    return planned


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_plan_of_its_widgets(plan_of, name):
    kept = {"keep_aspect": False, "end": "voice", "shift": 5.0}
    of_preset = {**OTHERS, **PRESETS[name].widgets()}
    wanted, plain = plan_of(**of_preset, **kept)
    got, notes = plan_of(**OTHERS, **kept, preset=name)
    same, silent = plan_of(**of_preset, **kept, preset=name)
    assert got == same == wanted, "and nothing else is decided"
    assert notes[0].startswith(f"⚠ preset {name}: ") and "steps" in notes[0] and "instead of 720x400" in notes[0]
    assert notes[1:] == plain == silent


def test_the_page_gets_the_same_table(pack):
    node = importlib.import_module(f"{pack.__name__}.nodes.clip_scheduler").ClipScheduler
    inputs = node.INPUT_TYPES()
    # Saved widgets count by position: what came later stands behind it.
    assert list(inputs["optional"])[-2:] == ["preset", "takes"]
    kind, options = inputs["optional"]["preset"]
    assert (kind, options["default"], options["options"]) == ("COMBO", CUSTOM, [CUSTOM, *PRESETS])
    assert options["presets"] == {name: preset.for_page() for name, preset in PRESETS.items()}
    assert all(one["size"][0] == PRESETS[name].size for name, one in options["presets"].items())
    assert set(OTHERS) <= {*inputs["required"], *inputs["optional"]}


def test_an_unknown_preset_or_size_over_a_link_is_refused(plan_of):
    with pytest.raises(InputError, match="preset is '90 s'; allowed are custom, check"):
        plan_of(**OTHERS, preset="90 s")
    with pytest.raises(InputError, match="size is '1x1'; allowed are custom, 384x256"):
        plan_of(**{**OTHERS, "size": "1x1"})
