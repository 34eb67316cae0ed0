"""Hardware Probe through the server: its template with the demo in place of the 14B model."""

import json
from pathlib import Path

from prompt_builder import PromptBuilder

PROBE = "LiveAvatar_HardwareProbe"
TEMPLATE = Path(__file__).parents[2] / "workflows" / "check_my_hardware.json"


def test_the_probe_runs_keeps_nothing_and_teaches_the_planner(server, object_info):
    prompt = PromptBuilder(json.loads(TEMPLATE.read_text(encoding="utf-8")), object_info)
    probe, loader = prompt.id(PROBE), prompt.id("LiveAvatar_LoadAvatarModel")
    assert (
        prompt.nodes[probe]["inputs"] | {"num_clip": 10, "width": 384, "height": 256} == prompt.nodes[probe]["inputs"]
    )
    assert (prompt.nodes[probe]["inputs"]["infer_frames"], prompt.nodes[probe]["inputs"]["steps"]) == (36, 3)
    prompt.set("LiveAvatar_LoadAvatarModel", model="liveavatar-demo/", lora="none")
    prompt.set(PROBE, vae=[loader, 2], num_clip=4)
    del prompt.nodes[prompt.id("VAELoader")]
    speeds = server.base / "user" / "__liveavatar_speeds"
    before, kept = set(server.output.rglob("*")), set(speeds.glob("*.json"))
    spools = set((server.base / "user" / "__liveavatar_spools").glob("*"))
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    notes = result.outputs[probe]["liveavatar_notes"]
    (report,) = result.outputs[prompt.id("PreviewAny")]["text"]
    told = "\n".join(notes)
    assert "This model only knows 64x64 pixels" in told and "It runs: 4 clips of 64x64 in" in told
    assert "First block after" in told and "Block times vary by" in told and "RAM: ComfyUI took" in told
    assert "stage" in told and all(note in report for note in notes) and "| 4 | 64x64 | 36 |" in report
    assert result.previews(probe), "the sampling is shown on the node"
    assert set(server.output.rglob("*")) == before and not list((server.base / "temp").rglob("probe.mp4"))
    assert set((server.base / "user" / "__liveavatar_spools").glob("*")) == spools
    (record,) = set(speeds.glob("*.json")) - kept
    learned = json.loads(record.read_text(encoding="utf-8"))
    assert learned["blocks"] == 11 and learned["key"]["steps"] == 3 and learned["key"]["executor"] == "local"
    # The next run of the same kind is predicted from this one, and is measured anew.
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    assert "(predicted " in result.outputs[prompt.id("PreviewAny")]["text"][0]
