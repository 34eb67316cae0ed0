"""The workflows for long videos, and the plain way: the last frame of one part as the picture of the next."""

import json
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from comfy_workflow import nodes_of
from PIL import Image
from prompt_builder import PromptBuilder
from test_output_choices import DECODE, JOIN, saved
from video_facts import probe, read_frame

from liveavatar_runtime.media.video import PictureTrack, VideoWriter

SCHEDULER, SAMPLER, ENCODE = "LiveAvatar_ClipScheduler", "LiveAvatar_DiTSampler", "LiveAvatar_AudioEncode"
CLIP = 48
WORKFLOWS = Path(__file__).parents[2] / "workflows"


@pytest.fixture(scope="module")
def segments(server, object_info):
    """The segments workflow as it is, run: (prompt, result)."""
    prompt = PromptBuilder(json.loads((WORKFLOWS / "long_video_segments.json").read_text()), object_info)
    result = server.client.run(prompt.nodes, workflow=prompt.workflow)
    result.raise_for_error()
    return prompt, result


def test_the_joined_segments_are_one_video(server, segments):
    """Each segment has one clip of the voice's three; the joined file has their frames, in order."""
    prompt, result = segments
    decodes = nodes_of(prompt.nodes, DECODE)
    parts = [saved(server, result, node) for node in decodes]
    assert [probe(part).frames for part in parts] == [CLIP] * 3
    whole = saved(server, result, prompt.id(JOIN))
    facts = probe(whole)
    assert facts.frames == 3 * CLIP and abs(float(facts.audio_duration or 0) - 9) < 1 / 16
    for number, part in enumerate(parts):
        for index in (0, 23, 47):
            assert np.array_equal(read_frame(whole, number * CLIP + index), read_frame(part, index))


@pytest.fixture(scope="module")
def lossless(server, segments, object_info):
    """Pictures of the same video as one stream and as joined segments, decoded again without loss or sampling."""
    several, _ = segments
    one = PromptBuilder(json.loads((WORKFLOWS / "long_video_single.json").read_text()), object_info)
    pictures = []
    for prompt, node in ((one, one.id(DECODE)), (several, several.id(JOIN))):
        for decode in nodes_of(prompt.nodes, DECODE):
            prompt.nodes[decode]["inputs"].update(codec="ffv1", filename_prefix=f"lossless/{node}-{decode}")
        result = server.client.run(prompt.nodes)
        result.raise_for_error()
        assert not result.previews(), "clips were sampled again"
        with av.open(str(saved(server, result, node))) as file:
            pictures.append([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    return pictures


def test_segments_equal_one_run(lossless):
    """The same plan without segments gives the same pictures, bit for bit."""
    one, joined = lossless
    assert len(one) == len(joined) == 3 * CLIP
    assert all(np.array_equal(a, b) for a, b in zip(one, joined, strict=True))


def test_no_jump_at_the_joins(lossless):
    """The change over a join is like that over other borders of blocks."""
    frames = [picture.astype(float) for picture in lossless[1]]
    change = [np.abs(b - a).mean() for a, b in zip(frames, frames[1:], strict=False)]
    borders = [change[n - 1] for n in range(12, 3 * CLIP, 12) if n % CLIP]
    for join in (CLIP, 2 * CLIP):
        assert change[join - 1] <= 1.5 * max(borders), (join, change[join - 1], borders)


def test_the_plain_way(server, short_clip):
    """Part 1's last frame is the picture of part 2, whose voice is the rest of the track."""
    first = short_clip(num_clip=1, infer_frames=24, width=64, height=64, seed=5)
    nodes = first.nodes
    decode, scheduler = first.id(DECODE), first.id(SCHEDULER)
    sampler, encode, text = first.id(SAMPLER), first.id(ENCODE), first.id("CLIPTextEncode")
    voice = first.id("LoadAudio")
    trim = {"audio": [voice, 0], "start_index": 24 / 16, "duration": 24 / 16}
    nodes["trim"] = {"class_type": "TrimAudioDuration", "inputs": trim}
    nodes["encode2"] = {"class_type": ENCODE, "inputs": {**nodes[encode]["inputs"], "audio": ["trim", 0]}}
    more = "Continue the previous scene, same character, a friendly person talks in front of a blue wall."
    nodes["text2"] = {"class_type": "CLIPTextEncode", "inputs": {**nodes[text]["inputs"], "text": more}}
    changed = {"image": [decode, 1], "avatar_audio": ["encode2", 0], "positive": ["text2", 0]}
    nodes["sampler2"] = {"class_type": SAMPLER, "inputs": {**nodes[sampler]["inputs"], **changed}}
    assert nodes["sampler2"]["inputs"]["plan"] == [scheduler, 0]
    nodes["decode2"] = {"class_type": DECODE, "inputs": {**nodes[decode]["inputs"], "latents": ["sampler2", 0]}}
    parts = {"parts.part_1": [decode, 0], "parts.part_2": ["decode2", 0], "audio": [voice, 0]}
    nodes["join"] = {"class_type": JOIN, "inputs": {**parts, "filename_prefix": "plain/whole", "reencode": False}}
    nodes["last"] = {"class_type": "SaveImage", "inputs": {"images": [decode, 1], "filename_prefix": "plain/last"}}
    result = server.client.run(nodes)
    result.raise_for_error()
    path = saved(server, result, "join")
    facts = probe(path)
    assert facts.frames == 48 and abs(float(facts.audio_duration or 0) - 3) < 1 / 16
    last = np.asarray(Image.open(saved(server, result, "last")).convert("RGB")).astype(int)
    assert np.abs(read_frame(path, 23) - last).mean() < 6, "the last frame of part 1 is what part 2 began with"


JUDGE = "LiveAvatar_ClipJudge"


def test_the_judge_reads_the_joined_video(server, segments):
    """As the template has it: the whole file, and its picture."""
    prompt, result = segments
    assert "Clip judge: no fault was found, clips looked at: 3" in result.notes(prompt.id(JUDGE))
    (chart,) = result.outputs[prompt.id(JUDGE)]["images"]
    with Image.open(BytesIO(server.client.view(chart["filename"], chart["subfolder"], chart["type"]))) as picture:
        assert picture.size[0] == 1200


def test_the_judge_names_a_clip_that_was_damaged_as_takes_takes_it(server, segments, object_info):
    """The second clip stands still: found by way of Load Video, with the plan of a take that it has already."""
    _, result = segments
    prompt, path = segments[0], saved(server, result, segments[0].id(JOIN))
    damaged = server.input / "damaged.mp4"
    with av.open(str(path)) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
        rate = file.streams.video[0].average_rate
    frames[CLIP : 2 * CLIP] = frames[CLIP]
    with VideoWriter(damaged, PictureTrack(64, 64, Fraction(rate), "h264", "auto", 18), None) as writer:
        writer.write_frames(torch.from_numpy(frames))
    plan = {**prompt.nodes[nodes_of(prompt.nodes, SCHEDULER)[0]]["inputs"], "segment_clips": 0, "num_clip": 3}
    nodes = {
        "plan": {"class_type": SCHEDULER, "inputs": {**plan, "seed": 1, "takes": "2: 4"}},
        "video": {"class_type": "LoadVideo", "inputs": {"file": "damaged.mp4"}},
        "judge": {"class_type": JUDGE, "inputs": {"video": ["video", 0], "plan": ["plan", 0], "infer_frames": 48}},
        "takes": {"class_type": "PreviewAny", "inputs": {"source": ["judge", 2]}},
        "clips": {"class_type": "PreviewAny", "inputs": {"source": ["judge", 3]}},
    }
    found = server.client.run(nodes)
    found.raise_for_error()
    assert (found.outputs["takes"]["text"], found.outputs["clips"]["text"]) == (["2: 5"], ["2"])
    told = found.notes("judge")
    assert told[0] == "⚠ Clip judge: 1 of 3 clips look wrong: 2"
    assert "frames are repeated: 2. Make the clip again with another seed." in told
    assert "Nobody is heard, so mouth and voice were not compared" in told
    nodes["plan"]["inputs"]["fps"] = 30
    wrong = server.client.run(nodes)
    assert "this is not the plan's video" in str(wrong.error)
