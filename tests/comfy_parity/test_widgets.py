"""Every numeric widget of every node with values that no slider gives: used as asked, or refused with a sentence."""

import asyncio
import importlib
import math
from collections.abc import Iterator
from typing import Any

import pytest

from liveavatar_runtime.errors import InputError

ODD = [
    *(math.nan, math.inf, -math.inf, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, -0.0, 5e-324, True),
    *("", " ", "1", "nan", "1e400", "x" * 100_000, "\x00", None, [], {}, ["1"], {"__value__": [1]}),
]
STUB = "LiveAvatarTest_"
CORE_REFUSES = {
    *("invalid_input_type", "value_smaller_than_min", "value_bigger_than_max", "bad_linked_input"),
    *("value_not_in_list", "required_input_missing"),
}
NODES = [
    *("LoadAvatarModel", "AudioEncode", "ClipScheduler", "DurationCalc", "DiTSampler", "OnlineVAEDecode"),
    *("CollectLatents", "JoinSegments", "Spools", "PlanCheck", "HardwareProbe"),
    *("FinishUpscale", "FinishColours", "FinishBackground", "FinishFrameRate"),
    *("AvatarScript", "ScriptChange", "Speakers", "ClipJudge", "LiveVoice", "LiveOut"),
]
NUMBERS = ("INT", "FLOAT")
WIDGETS = (*NUMBERS, "STRING", "BOOLEAN", "COMBO")


@pytest.fixture(scope="module")
def node_classes(pack) -> Iterator[dict[str, Any]]:
    """The pack's nodes by id, known to core beside one that gives any type."""
    core = importlib.import_module("nodes")
    module = importlib.import_module(f"{pack.__name__}.nodes")
    extension = asyncio.run(pack.comfy_entrypoint())
    assert module
    ours = {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}
    assert {f"LiveAvatar_{name}" for name in NODES} == ours.keys()
    before = dict(core.NODE_CLASS_MAPPINGS)
    core.NODE_CLASS_MAPPINGS.update(ours)
    yield ours
    core.NODE_CLASS_MAPPINGS.clear()
    core.NODE_CLASS_MAPPINGS.update(before)


def inputs_of(node: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Names, types and options of a node's inputs, as the page gets them."""
    found = node.INPUT_TYPES()
    flat = {**found.get("required", {}), **found.get("optional", {})}
    return {name: (info[0], info[1] if len(info) > 1 else {}) for name, info in flat.items()}


def prompt_with(node: Any, widget: str, value: Any) -> dict[str, Any]:
    """A node with its defaults, a link for each socket, and one odd value."""
    prompt: dict[str, Any] = {"1": {"class_type": node.GET_SCHEMA().node_id, "inputs": {}}}
    for name, (kind, options) in inputs_of(node).items():
        if "default" in options:
            prompt["1"]["inputs"][name] = options["default"]
        elif kind == "COMBO":
            prompt["1"]["inputs"][name] = options["options"][0]
    prompt["1"]["inputs"][widget] = value
    return prompt


def verdict(node: Any, pack: Any, widget: str, value: Any) -> tuple[str, str]:
    """What comes of a prompt: ("taken", ""), ("core", kind), ("ours", text) or ("raw", text)."""
    execution = importlib.import_module("execution")
    validation = importlib.import_module(f"{pack.__name__}.comfy_bridge.validation")
    prompt = prompt_with(node, widget, value)
    validation._REQUEST.set({"prompt": prompt})
    try:
        valid, found, _ = asyncio.run(execution.validate_inputs("id", prompt, "1", {}))
    except InputError as error:
        return "ours", str(error)
    except Exception as error:
        return "raw", f"{type(error).__name__}: {error}"
    found = [error for error in found if error["extra_info"].get("input_name") == widget]
    if not found:
        return "taken", ""
    own = [error["details"] for error in found if error["type"] == "custom_validation_failed"]
    return ("ours", own[0]) if own else ("core", found[0]["type"])


@pytest.mark.parametrize("name", NODES)
def test_values_that_no_slider_gives(node_classes, pack, name):
    node = node_classes[f"LiveAvatar_{name}"]
    raw, unfit = [], []
    for widget, (kind, options) in inputs_of(node).items():
        if kind not in WIDGETS:
            continue
        for value in ODD:
            outcome, text = verdict(node, pack, widget, value)
            shown = f"{widget}={str(value)[:30]}: {text[:200]}"
            if outcome == "raw" or len(text) > 1000:
                raw.append(shown)
            elif outcome == "core":
                assert text in CORE_REFUSES, shown
            elif outcome == "ours":
                assert widget in text and "object has no" not in text, shown
            elif kind in NUMBERS:
                number = {"INT": int, "FLOAT": float}[kind](value)
                if not options["min"] <= number <= options["max"]:
                    unfit.append(shown)
    assert not raw and not unfit, "\n".join([*raw, *unfit])


@pytest.mark.parametrize("name", ["ClipScheduler", "DurationCalc", "Spools"])
def test_values_that_come_over_a_link(node_classes, name, tmp_path, monkeypatch):
    """ComfyUI compares those with no limit."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    node = node_classes[f"LiveAvatar_{name}"]
    found = {widget: info for widget, info in inputs_of(node).items() if info[0] in WIDGETS}
    usual = {widget: options.get("default", options.get("options", [0])[0]) for widget, (_, options) in found.items()}
    for widget, (kind, _) in found.items():
        for value in ODD if kind in NUMBERS else ():
            if isinstance(value, (int, float)):
                try:
                    node.execute(**{**usual, widget: value})
                except InputError as error:
                    assert widget in str(error) or "fps" in str(error), error
