"""Plan Check on the real server: its template, the demo, a plan that does not fit, wrong inputs, both languages."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from comfy_client import PromptRefused, RunResult
from comfy_workflow import nodes_of, to_prompt
from page_translator import left_in_english
from PIL import Image

CHECK, SCHEDULER = "LiveAvatar_PlanCheck", "LiveAvatar_ClipScheduler"
TEMPLATE = Path(__file__).parents[2] / "workflows" / "check_my_plan.json"
PLAN = {"num_clip": 10, "infer_frames": 48, "fps": 16, "width": 688, "height": 368, "seed": 1, "steps": 4}


def ask(server, plan: dict[str, Any] | None = None, **widgets: Any) -> RunResult:
    """A plan at 688x368 on one RTX 4090 with 64 GiB of RAM, with changes."""
    inputs = {"plan": ["plan", 0], "machine": "1x RTX 4090", "ram": 64.0, "model_file": "14B model in fp8", **widgets}
    nodes: dict[str, Any] = {
        "plan": {"class_type": SCHEDULER, "inputs": {**PLAN, "size": "688x368", **(plan or {})}},
        "check": {"class_type": CHECK, "inputs": inputs},
        "fits": {"class_type": "PreviewAny", "inputs": {"source": ["check", 0]}},
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["check", 1]}},
    }
    if "model" in widgets:
        nodes["model"] = {
            "class_type": "LiveAvatar_LoadAvatarModel",
            "inputs": {"model": "liveavatar-demo/", "lora": "auto", "lora_strength": 1.0},
        }
    if "audio" in widgets:
        nodes["voice"] = {"class_type": "LoadAudio", "inputs": {"audio": "liveavatar_voice.wav"}}
    return server.client.run(nodes)


def told(result: RunResult) -> list[str]:
    result.raise_for_error()
    return result.notes("check")


def picture(server, result: RunResult, node: str = "check") -> Image.Image:
    (shown,) = result.outputs[node]["images"]
    return Image.open(io.BytesIO(server.client.view(shown["filename"], shown["subfolder"], shown["type"])))


def test_the_template_runs_and_shows_two_reports_with_pictures(server, object_info):
    prompt = to_prompt(json.loads(TEMPLATE.read_text(encoding="utf-8")), object_info)
    result = server.client.run(prompt)
    result.raise_for_error()
    lines = {}
    for node in nodes_of(prompt, CHECK):
        lines[prompt[node]["inputs"]["machine"]] = result.notes(node)
        assert picture(server, result, node).size[0] == 1200
    assert lines["4x RTX 4090"][0] == "It fits: 688x368 in 4 steps on 4x RTX 4090 with 64 GiB of RAM"
    assert "this machine" in lines["this machine"][0]
    assert not left_in_english([line for told in lines.values() for line in told])


def test_what_does_not_fit_is_a_result_and_names_what_helps(server):
    result = ask(server)
    lines = told(result)
    assert lines[0].startswith("⚠ It does not fit: 688x368 in 4 steps on 1x RTX 4090 with 64 GiB of RAM. RAM would ")
    assert any(line.startswith("1. kv_dtype fp8 in DiT Sampler: it fits with ") for line in lines)
    assert result.outputs["fits"]["text"] == ["False"]
    assert result.outputs["report"]["text"][0].splitlines() == [lines[0].removeprefix("⚠ "), *lines[1:]]
    assert not left_in_english(lines)
    followed = ask(server, kv_dtype="fp8")
    assert told(followed)[0].startswith("It fits") and followed.outputs["fits"]["text"] == ["True"]


def test_a_connected_model_on_this_machine_and_a_plan_that_follows_the_voice(server):
    plan = {"num_clip": 0, "size": "custom", "width": 64, "height": 64}
    small = {"machine": "this machine", "model": ["model", 0]}
    lines = told(ask(server, plan, **small))
    assert lines[0] == "It fits: 64x64 in 4 steps on this machine"
    assert any(line.startswith("Length: as many clips as the voice needs") for line in lines)
    with_voice = told(ask(server, plan, **small, audio=["voice", 0]))
    assert any(line.startswith("Video: ") and "clips x 48 frames" in line for line in with_voice)
    assert any("No image is connected" in line for line in with_voice)
    assert not left_in_english(lines + with_voice)


@pytest.mark.parametrize(
    ("widgets", "reads"),
    [
        ({"machine": "this machine", "devices": "cuda:77"}, "cuda:77"),
        ({"machine": "one of mine"}, "machine"),
        ({"ram": 0.0}, "ram"),
        ({"model_file": "not there.safetensors"}, "model_file"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(server, widgets, reads):
    with pytest.raises(PromptRefused, match=reads):
        ask(server, **widgets)


def test_dit_sampler_refuses_with_the_same_advice(server, short_clip):
    prompt = short_clip(num_clip=1, width=4096, height=4096, steps=100, keep_aspect=False)
    result = server.client.run(prompt.nodes)
    assert result.error and result.error["node_type"] == "LiveAvatar_DiTSampler"
    text = result.error["exception_message"]
    assert "4096x4096 in 100 steps needs" in text and "What would help, the least harm first: " in text
    assert "in Clip Scheduler" in text and "Plan Check tells it before a run." in text
    assert not left_in_english([text])
