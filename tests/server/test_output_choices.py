"""The file that Online VAE Decode writes: codecs, wrong combinations, frames, names; and Join Segments behind it."""

import json
import time

import av
import numpy as np
import pytest
from test_bad_input import SMALL, files, refused, tone, write_wav
from video_facts import probe, read_frame

from liveavatar_runtime.media.codecs import CODECS

DECODE, JOIN = "LiveAvatar_OnlineVAEDecode", "LiveAvatar_JoinSegments"


def saved(server, result, node: str):
    entry = result.outputs[node]["images"][0]
    return server.output / entry["subfolder"] / entry["filename"]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec(server, short_clip, codec):
    prompt = short_clip(**SMALL, seed=31)
    prompt.set(DECODE, codec=codec, filename_prefix=f"codecs/{codec}", crf=30)
    decode = prompt.id(DECODE)
    prompt.add("last", "SaveImage", images=[decode, 1], filename_prefix="codecs/last")
    prompt.add("table", "PreviewAny", source=[decode, 3])
    result = server.client.run(prompt.nodes, workflow=prompt.workflow)
    result.raise_for_error()
    path = saved(server, result, decode)
    facts = probe(path)
    settings = CODECS[codec]
    assert path.suffix == f".{settings.kind.extension}"
    assert (facts.frames, facts.codec, facts.audio_codec) == (12, codec, settings.kind.sound)
    with av.open(str(path)) as file:
        texts = {name.lower(): text for name, text in file.metadata.items()}
    assert (
        json.loads(texts["workflow"]) == prompt.workflow and json.loads(texts["prompt"]).keys() == prompt.nodes.keys()
    )
    assert server.client.view(**result.outputs[decode]["images"][0]) == path.read_bytes()
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert told["ended"] == "finished" and told["settings"]["output"]["codec"] == codec
    # All runs of this test have one plan: the first one samples its block, and the others replay it.
    assert told["blocks"]["written"] == 1 and told["blocks"]["sampled"] + told["blocks"]["replayed"] == 1
    assert (
        path.name in result.outputs["table"]["text"][0] and "| 1 | 64x64 | 12 |" in result.outputs["table"]["text"][0]
    )


def test_a_video_without_a_report(server, short_clip):
    prompt = short_clip(**SMALL, seed=31)
    prompt.set(DECODE, filename_prefix="codecs/alone", report=False)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    assert [path.name for path in server.output.glob("codecs/alone*")] == ["alone_00001_.mp4"]
    assert not any("report" in note for note in result.outputs[prompt.id(DECODE)]["liveavatar_notes"])


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"codec": "h264", "crf": 55}, "crf is 55; h264 takes 0 .* to 51"),
        ({"codec": "vp9", "crf": 64}, "crf is 64; vp9 takes 0 .* to 63"),
        ({"codec": "av1", "pixel_format": "yuv444p"}, "av1 takes auto, yuv420p, yuv420p10"),
        ({"codec": "h264", "pixel_format": "rgb"}, "h264 takes auto"),
        ({"codec": "wmv"}, "'wmv' not in .*h264"),
    ],
)
def test_wrong_combinations_are_refused_before_anything_runs(server, short_clip, choice, match):
    prompt = short_clip(**SMALL)
    prompt.set(DECODE, **choice)
    refused(server, prompt, match, DECODE)


def test_all_frames_of_a_long_video_are_refused_before_sampling(server, short_clip):
    prompt = short_clip(num_clip=101, infer_frames=12, width=64, height=64)
    prompt.set("LoadAudio", audio=write_wav(server.input / "long.wav", tone(76.0, 8000)[:, None], 8000))
    prompt.set(DECODE, return_frames=True)
    refused(server, prompt, "return_frames keeps all 1212 frames.*more than 100 clips, this plan has 101", DECODE)


def test_an_interruption_ends_within_seconds_and_keeps_what_was_decoded(server, short_clip):
    prompt = short_clip(num_clip=13, infer_frames=12, width=128, height=128, seed=78)
    prompt.set("LoadAudio", audio=write_wav(server.input / "ten.wav", tone(10.0, 16000)[:, None], 16000))
    before, stopped = files(server.output), []

    def stop(event) -> None:
        if event.kind == "preview" and not stopped:
            stopped.append(time.monotonic())
            server.client.interrupt()

    result = server.client.run(prompt.nodes, on_event=stop)
    assert result.interrupted and time.monotonic() - stopped[0] < 60
    report, written = sorted(files(server.output) - before)
    frames = probe(written).frames
    assert frames % 12 == 0 and report == written.with_suffix(".json")
    told = json.loads(report.read_text(encoding="utf-8"))
    assert (told["ended"], told["video"]["frames"], told["video"]["wanted_frames"]) == ("interrupted", frames, 156)
    assert told["judge"]["clips"] == frames // 12


@pytest.fixture(scope="module")
def two_videos(server, short_clip):
    """Two short videos, and the prompt to go on from: (prompt, [paths in the output folder])."""
    paths = []
    for seed in (41, 42):
        prompt = short_clip(**SMALL, seed=seed)
        prompt.set(DECODE, filename_prefix=f"parts/{seed}")
        result = server.client.run(prompt.nodes)
        result.raise_for_error()
        paths.append(saved(server, result, prompt.id(DECODE)))
    for path in paths:
        (server.input / path.name).write_bytes(path.read_bytes())
    return paths


def join_nodes(paths, **inputs):
    nodes = {f"load{n}": {"class_type": "LoadVideo", "inputs": {"file": path.name}} for n, path in enumerate(paths)}
    parts = {f"parts.part_{n + 1}": [f"load{n}", 0] for n in range(len(paths))}
    nodes["join"] = {
        "class_type": JOIN,
        "inputs": {**parts, "filename_prefix": "joined/whole", "reencode": False, **inputs},
    }
    return nodes


def test_joined_files_have_the_frames_of_the_parts(server, two_videos):
    result = server.client.run(join_nodes(two_videos))
    result.raise_for_error()
    path = saved(server, result, "join")
    facts = probe(path)
    assert facts.frames == 24 and abs(float(facts.audio_duration or 0) - 24 / 16) < 1 / 16
    for part, first in zip(two_videos, (0, 12), strict=True):
        for index in (0, 5, 11):
            assert np.array_equal(read_frame(path, first + index), read_frame(part, index))
    assert "2 parts, 24 frames (copied), 1.5 s" in "\n".join(result.notes("join"))
    with av.open(str(path)) as file:
        assert json.loads(file.metadata["prompt"]).keys() == {"load0", "load1", "join"}
    again = server.client.run(join_nodes(two_videos, filename_prefix="joined/whole", reencode=True))
    again.raise_for_error()
    assert saved(server, again, "join") != path, "a second run has a file of its own"


def test_a_trimmed_video_and_images_are_saved_first(server, two_videos):
    """Video Slice and Create Video give videos that are no files; two of a kind join."""
    nodes = join_nodes(two_videos)
    for number in (0, 1):
        nodes[f"slice{number}"] = {
            "class_type": "Video Slice",
            "inputs": {"video": [f"load{number}", 0], "start_time": 0.0, "duration": 0.5, "strict_duration": False},
        }
        nodes["join"]["inputs"][f"parts.part_{number + 1}"] = [f"slice{number}", 0]
    result = server.client.run(nodes)
    result.raise_for_error()
    assert probe(saved(server, result, "join")).frames == 16
    for number in (0, 1):
        nodes[f"split{number}"] = {"class_type": "GetVideoComponents", "inputs": {"video": [f"load{number}", 0]}}
        made = {"images": [f"split{number}", 0], "fps": 16.0, "audio": [f"split{number}", 1]}
        nodes[f"made{number}"] = {"class_type": "CreateVideo", "inputs": made}
        nodes["join"]["inputs"][f"parts.part_{number + 1}"] = [f"made{number}", 0]
    result = server.client.run(nodes)
    result.raise_for_error()
    assert probe(saved(server, result, "join")).frames == 24


def test_a_part_that_does_not_fit_is_named_and_leaves_no_file(server, short_clip, two_videos):
    prompt = short_clip(**SMALL, seed=42)
    prompt.set(DECODE, filename_prefix="parts/other", codec="hevc")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    other = saved(server, result, prompt.id(DECODE))
    (server.input / other.name).write_bytes(other.read_bytes())
    before = files(server.output)
    nodes = join_nodes([two_videos[0], other])
    failed = server.client.run(nodes)
    assert failed.error and failed.error["node_id"] == "join"
    assert "part_2" in failed.error["exception_message"] and "codec is hevc" in failed.error["exception_message"]
    assert files(server.output) == before
    nodes["join"]["inputs"]["reencode"] = True
    again = server.client.run(nodes)
    again.raise_for_error()
    assert probe(saved(server, again, "join")).frames == 24


def test_the_voice_as_the_track_of_the_whole(server, two_videos):
    write_wav(server.input / "track.wav", np.repeat(tone(3.0, 48000)[:, None], 2, axis=1), 48000)
    nodes = join_nodes(two_videos)
    nodes["voice"] = {"class_type": "LoadAudio", "inputs": {"audio": "track.wav"}}
    nodes["join"]["inputs"]["audio"] = ["voice", 0]
    result = server.client.run(nodes)
    result.raise_for_error()
    facts = probe(saved(server, result, "join"))
    assert facts.channels == 2 and abs(float(facts.audio_duration or 0) - 1.5) < 1 / 16
    nodes["voice"] = {"class_type": "OddAudio", "inputs": {"kind": "surround"}}
    result = server.client.run(nodes)
    result.raise_for_error()
    assert probe(saved(server, result, "join")).channels == 2
    assert "6 channels; they were mixed to stereo" in result.notes("join")[0]
