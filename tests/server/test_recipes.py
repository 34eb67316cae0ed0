"""What docs/RECIPES.md says can be done with ComfyUI's own nodes, on a real ComfyUI."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
from test_output_choices import DECODE, JOIN, saved
from video_facts import probe

PAGE = Path(__file__).parents[2] / "docs" / "RECIPES.md"
FPS, CLIP, SILENCE, VOICE = 16, 48, 2.0, 6.93
"""Frames and seconds; the demo's voice."""


def recipe() -> dict[str, dict]:
    """The graph in API form that the page shows."""
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(shown)


def loudness(path: Path) -> tuple[np.ndarray, int]:
    """Samples of a file's sound, absolute, of the louder channel, and their rate."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        parts = [np.abs(frame.to_ndarray()).max(axis=0) for frame in file.decode(stream)]
        return np.concatenate(parts), stream.rate


@pytest.fixture(scope="module")
def finished(server, short_clip):
    """The short clip with the page's nodes, and its video joined with another sound: (prompt, result)."""
    prompt = short_clip(width=64, height=64, infer_frames=CLIP, fps=float(FPS))
    for node_id, node in recipe().items():
        known = prompt.nodes.setdefault(node_id, {"inputs": {}, **node})
        known["inputs"].update(node["inputs"])
    prompt.add("song", "EmptyAudio", duration=9.0, sample_rate=44100, channels=2)
    parts = {"parts.part_1": [prompt.id(DECODE), 0], "audio": ["song", 0]}
    prompt.add(JOIN, JOIN, filename_prefix="recipes/joined", reencode=False, **parts)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    return prompt, result


def test_the_recipe_names_nodes_of_the_short_clip(short_clip):
    nodes = short_clip().nodes
    assert nodes["3"]["class_type"] == "LoadAudio" and nodes["5"]["class_type"] == "LiveAvatar_AudioEncode"


def test_silence_before_the_voice_is_in_the_video(server, finished):
    prompt, result = finished
    path = saved(server, result, prompt.id(DECODE))
    clips = -(-(SILENCE + VOICE) * FPS // CLIP)
    assert probe(path).frames == clips * CLIP
    loud, rate = loudness(path)
    begin = int(SILENCE * rate)
    assert loud[: begin - rate // 10].max() < 0.01 < 0.1 < loud[begin : begin + rate].max()


def test_join_segments_gives_a_video_another_sound(server, finished):
    prompt, result = finished
    video, joined = (saved(server, result, prompt.id(kind)) for kind in (DECODE, JOIN))
    assert probe(joined).frames == probe(video).frames
    assert loudness(joined)[0].max() < 0.01 < loudness(video)[0].max()
