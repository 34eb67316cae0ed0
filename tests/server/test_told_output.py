"""What users read about files, frames and joined videos; and that removed files are written again."""

import re
import time

import pytest
from comfy_client import PromptRefused
from test_output_choices import join_nodes, saved, two_videos  # noqa: F401 (a fixture)
from told_cases import SMALL, Told, check_told, files
from video_facts import probe

DECODE, SAMPLER, SCHEDULER = "LiveAvatar_OnlineVAEDecode", "LiveAvatar_DiTSampler", "LiveAvatar_ClipScheduler"
JOIN = "LiveAvatar_JoinSegments"


def with_prefix(prefix: str):
    return lambda prompt: prompt.set(DECODE, filename_prefix=prefix)


def with_frames(prompt) -> None:
    prompt.add("preview", "PreviewImage", images=[prompt.id(DECODE), 2])


CASES = [
    Told(
        "a pattern that nobody knows", DECODE, r"%Nobody\.seed% stands in the file name", with_prefix("a%Nobody.seed%")
    ),
    Told("a prefix too long", DECODE, "260 bytes long; 243 are allowed", with_prefix("a" * 260), refused=True),
    Told("a prefix of Windows' own", DECODE, "'NUL' is the name of a device", with_prefix("NUL"), refused=True),
    Told("a prefix with a colon", DECODE, "has :; these are not allowed", with_prefix("12:30"), refused=True),
    Told("a folder that is a file", DECODE, "the file cannot be made", with_prefix("file.txt/a"), refused=True),
    Told("frames without return_frames", DECODE, "frames is connected to PreviewImage, but", with_frames, refused=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_told(server, short_clip, case):
    (server.output / "file.txt").write_text("in the way")
    check_told(case, server, short_clip(**SMALL))


@pytest.mark.parametrize(
    ("node", "change", "where", "reads"),
    [
        (DECODE, {"filename_prefix": "../x"}, "filename_prefix", "leaves the output folder"),
        (DECODE, {"crf": 60}, None, "crf is 60; h264 takes"),
        (DECODE, {"codec": "wmv"}, "codec", "'wmv' not in"),
        (SCHEDULER, {"infer_frames": 50}, "infer_frames", "infer_frames is 50"),
        (SCHEDULER, {"relative_distance": 2}, None, "relative_distance is 2"),
        ("LiveAvatar_LoadAvatarModel", {"workers": "nowhere"}, "workers", "nowhere"),
        ("LiveAvatar_LoadAvatarModel", {"devices": "sofa"}, None, "sofa"),
    ],
)
def test_a_wrong_widget_is_told_once_at_its_own_place(server, short_clip, node, change, where, reads):
    prompt = short_clip(**SMALL)
    prompt.set(node, **change)
    with pytest.raises(PromptRefused) as refused:
        server.client.run(prompt.nodes)
    ((node_id, _, text),) = refused.value.errors
    assert node_id == prompt.id(node) and re.search(reads, text)
    # ComfyUI begins with the widget's name.
    assert f": {where}" in text if where else "Exception when validating" in text


def test_errors_have_a_name_not_a_path(server, short_clip):
    prompt = short_clip(**SMALL)
    prompt.add("empty", "EmptyAudio", duration=0.0, sample_rate=16000, channels=1)
    prompt.set("LiveAvatar_AudioEncode", audio=["empty", 0])
    error = server.client.run(prompt.nodes).error
    assert error and error["exception_type"] == "InputError"


def test_frames_that_nobody_will_ask_for_are_no_error(server, short_clip):
    prompt = short_clip(**SMALL)
    prompt.add("idle", "ImageInvert", image=[prompt.id(DECODE), 2])
    server.client.run(prompt.nodes).raise_for_error()


def test_patterns_of_a_prompt_that_did_not_come_from_the_page(server, short_clip):
    prompt = short_clip(**SMALL, seed=4711)
    prompt.set(DECODE, filename_prefix=f"%date:yyyy%\\s%{SCHEDULER}.seed%")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    path = saved(server, result, prompt.id(DECODE)).relative_to(server.output)
    assert path.parts == (time.strftime("%Y"), "s4711_00001_.mp4")


def test_a_removed_file_is_written_again_without_sampling(server, short_clip):
    """Also by what comes behind it, and only then."""
    prompt = short_clip(**SMALL, seed=91)
    prompt.set(DECODE, filename_prefix="removed/a")
    decode = prompt.id(DECODE)
    prompt.nodes["join"] = {
        "class_type": JOIN,
        "inputs": {"parts.part_1": [decode, 0], "filename_prefix": "removed/joined", "reencode": False},
    }
    prompt.add("save", "SaveVideo", video=[decode, 0], filename_prefix="removed/copy", format="auto", codec="auto")

    def run() -> tuple:
        result = server.client.run(prompt.nodes)
        result.raise_for_error()
        return result, saved(server, result, decode), saved(server, result, "join")

    _, video, joined = run()
    before = files(server)
    assert run()[1:] == (video, joined) and files(server) == before
    joined.unlink()
    result, *paths = run()
    assert paths[0] == video and all(path.is_file() for path in paths)
    video.unlink()
    result, *paths = run()
    assert all(path.is_file() for path in paths) and probe(paths[0]).frames == probe(paths[1]).frames == 12
    assert not result.previews(prompt.id(SAMPLER)), "sampled again"
    other = short_clip(**SMALL, seed=92)
    other.set(DECODE, filename_prefix="removed/other")
    server.client.run(other.nodes).raise_for_error()
    paths[0].unlink()
    assert all(path.is_file() for path in run()[1:]), "another video was made in between"


def test_a_list_of_videos_becomes_one_file(server, two_videos):  # noqa: F811
    nodes = join_nodes(two_videos[:1])
    names = "\n".join(path.name for path in two_videos)
    nodes["list"] = {"class_type": "OddVideoList", "inputs": {"names": names}}
    nodes["join"]["inputs"]["parts.part_2"] = ["list", 0]
    before = files(server)
    result = server.client.run(nodes)
    result.raise_for_error()
    (path,) = files(server) - before
    assert probe(path).frames == 36 and "3 parts, 36 frames" in result.notes("join")[0]


def test_a_compiled_vae(server, short_clip):
    prompt = short_clip(**SMALL)
    link = prompt.nodes[prompt.id(SAMPLER)]["inputs"]["vae"]
    prompt.add("compiled", "OddCompiledVAE", vae=link)
    prompt.set(SAMPLER, vae=["compiled", 0])
    server.client.run(prompt.nodes).raise_for_error()
