"""The workflow for several GPUs as it is, in a real ComfyUI."""

import json
from pathlib import Path

from comfy_workflow import nodes_of
from prompt_builder import PromptBuilder
from test_output_choices import DECODE, saved
from video_facts import probe

WORKFLOW = Path(__file__).parents[2] / "workflows" / "multi_gpu.json"
LOADER, SAMPLER = "LiveAvatar_LoadAvatarModel", "LiveAvatar_DiTSampler"


def test_the_workflow_runs_as_it_is(server, object_info):
    prompt = PromptBuilder(json.loads(WORKFLOW.read_text()), object_info)
    # Whatever executor made it, a video that was made before is not sampled again.
    prompt.set("LiveAvatar_ClipScheduler", seed=20261122)
    chosen = prompt.nodes[prompt.id(LOADER)]["inputs"]
    assert chosen["executor"] == "layer_pipeline" and len(chosen["devices"].split(",")) > 1
    result = server.client.run(prompt.nodes, workflow=prompt.workflow)
    result.raise_for_error()
    (decode,) = nodes_of(prompt.nodes, DECODE)
    facts = probe(saved(server, result, decode))
    assert facts.frames == 144 and abs(float(facts.audio_duration or 0) - 9) < 1 / 16
    assert result.previews(prompt.id(SAMPLER))
