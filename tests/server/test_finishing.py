"""Finish nodes through a real server: exact frames and sound, alpha in the file, segments, and what is refused."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.context import CodecContext
from comfy_server import ComfyServer
from prompt_builder import PromptBuilder
from test_bad_input import refused
from test_output_choices import DECODE, JOIN, saved
from video_facts import probe

from benchmarks.tiny_models import write_interpolation_model, write_upscale_model

CLIPS = {"num_clip": 2, "infer_frames": 24, "width": 64, "height": 64, "seed": 71}


@pytest.fixture(scope="module")
def finishing(server: ComfyServer, short_clip: Callable[..., PromptBuilder]) -> Callable[..., PromptBuilder]:
    """finishing("alpha", codec="vp9"): a short video with these steps, and widgets of Online VAE Decode."""
    for folder, write in (("upscale_models", write_upscale_model), ("frame_interpolation", write_interpolation_model)):
        place = server.base / "models" / folder
        place.mkdir(parents=True, exist_ok=True)
        write(place / "tiny.safetensors")

    def build(*steps: str, clips: dict[str, Any] = CLIPS, **widgets: Any) -> PromptBuilder:
        prompt = short_clip(**clips)
        prompt.add("upscaler", "UpscaleModelLoader", model_name="tiny.safetensors")
        prompt.add("between", "FrameInterpolationModelLoader", model_name="tiny.safetensors")
        prompt.add("mask", "OddBackground")
        picture = prompt.nodes[prompt.id("LiveAvatar_DiTSampler")]["inputs"]["image"]
        known: dict[str, tuple[str, dict[str, Any]]] = {
            "upscale": ("LiveAvatar_FinishUpscale", {"upscale_model": ["upscaler", 0], "width": 0, "height": 0}),
            "double": ("LiveAvatar_FinishFrameRate", {"interp_model": ["between", 0], "factor": 2}),
            "colours": ("LiveAvatar_FinishColours", {"image": picture, "strength": 1.0}),
            "alpha": (
                "LiveAvatar_FinishBackground",
                {"background_model": ["mask", 0], "behind": "transparent", "colour": "#00ff00"},
            ),
        }
        last: dict[str, Any] = {}
        for step in steps:
            class_type, inputs = known[step]
            prompt.add(step, class_type, **inputs, **last)
            last = {"finishing": [step, 0]}
        prompt.set(DECODE, **last, filename_prefix=f"finishing/{'_'.join(steps) or 'plain'}", **widgets)
        return prompt

    return build


def made(server: ComfyServer, prompt: PromptBuilder) -> tuple[Path, list[str], dict[str, Any]]:
    """The file, what the node says, and the report."""
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    decode = prompt.id(DECODE)
    path = saved(server, result, decode)
    return path, result.notes(decode), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def pictures(path: Path, decoder: str = "ffv1", kind: str = "rgb24") -> np.ndarray:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        context: Any = CodecContext.create(decoder, "r")
        context.extradata = stream.codec_context.extradata
        context.width, context.height = stream.width, stream.height
        frames = [frame for packet in file.demux(stream) if packet.size for frame in context.decode(packet)]
    return np.stack([frame.to_ndarray(format=kind) for frame in frames])


def test_an_upscaled_video_of_twice_the_frames(server: ComfyServer, finishing: Callable[..., PromptBuilder]) -> None:
    path, notes, report = made(server, finishing("colours", "upscale", "double"))
    facts = probe(path)
    assert (facts.frames, facts.width, facts.height, facts.fps) == (96, 128, 128, Fraction(32))
    assert facts.duration == 3 and abs(float(facts.audio_duration or 0) - 3) < 1 / 32
    text = "\n".join(notes)
    assert "Finishing: colours of the picture at strength 1, upscale x2, frame rate x2" in text
    assert "Finished frames: 128x128, 32 fps, 96 frames, the file: about" in text and "96 frames, 3 s" in text
    video, stages = report["video"], report["stages"]
    assert (video["width"], video["frames"], video["wanted_frames"], video["seconds"]) == (128, 96, 96, 3)
    assert stages["worked_seconds"]["finishing"] > 0 and report["settings"]["output"]["finishing"][1] == "upscale x2"


def test_segments_join_to_what_one_run_gives_but_for_the_held_frames(
    server: ComfyServer, finishing: Callable[..., PromptBuilder]
) -> None:
    whole, _, _ = made(server, finishing("upscale", "double", codec="ffv1"))
    parts = []
    for index in (0, 1):
        clips = {**CLIPS, "segment_clips": 1, "segment_index": index}
        part, notes, _ = made(server, finishing("upscale", "double", clips=clips, codec="ffv1"))
        assert ("held for 1 more" in "\n".join(notes)) is (index == 0)
        (server.input / part.name).write_bytes(part.read_bytes())
        parts.append(part.name)
    nodes: dict[str, Any] = {
        f"load{n}": {"class_type": "LoadVideo", "inputs": {"file": name}} for n, name in enumerate(parts)
    }
    inputs = {f"parts.part_{n + 1}": [f"load{n}", 0] for n in range(2)}
    nodes["join"] = {"class_type": JOIN, "inputs": {**inputs, "filename_prefix": "finishing/joined"}}
    result = server.client.run(nodes)
    result.raise_for_error()
    one, joined = pictures(whole), pictures(saved(server, result, "join"))
    assert joined.shape == one.shape == (96, 128, 128, 3)
    differ = [number for number in range(96) if not np.array_equal(one[number], joined[number])]
    assert differ == [47] and np.array_equal(joined[47], joined[46])


@pytest.mark.parametrize("codec", ["vp9", "ffv1"])
def test_a_transparent_background(server: ComfyServer, finishing: Callable[..., PromptBuilder], codec: str) -> None:
    path, notes, _ = made(server, finishing("alpha", codec=codec))
    assert probe(path).frames == 48 and "64x64, 16 fps, 48 frames, transparent" in "\n".join(notes)
    found = pictures(path, "libvpx-vp9" if codec == "vp9" else "ffv1", "rgba")
    alpha = found[..., 3].astype(float) / 255
    # The demo's face is in the middle, its wall behind it.
    assert alpha[:, :8, :8].mean() < 0.1 and alpha[:, 28:40, 26:38].mean() > 0.9


def test_alpha_is_refused_where_the_file_cannot_hold_it(
    server: ComfyServer, finishing: Callable[..., PromptBuilder]
) -> None:
    prompt = finishing("alpha", "upscale", codec="h264")
    refused(server, prompt, r"transparent, and h264 .* Choose codec vp9 \(webm\) or codec ffv1 \(mkv\)", DECODE)
    refused(server, finishing("alpha", codec="vp9", pixel_format="yuv444p"), "auto or yuva420p", DECODE)
    prompt = finishing("alpha", "colours", codec="vp9")
    refused(server, prompt, "Put it before Finish Background", DECODE)


@pytest.mark.parametrize(
    ("node", "inputs", "match"),
    [
        ("upscale", {"width": 101}, "width is 101; players need even sides"),
        ("upscale", {"upscale_model": ["odd", 0]}, "upscale_model is a str, which enlarges no pictures"),
        ("double", {"interp_model": ["odd", 2]}, "interp_model is a dict, which makes no frames"),
        ("double", {"factor": 9}, "max of 8: factor"),
        ("alpha", {"background_model": ["odd", 1]}, "background_model is a Linear"),
        ("alpha", {"behind": "image"}, "behind is image, and no picture is connected"),
        ("alpha", {"colour": "green"}, "colour is 'green'; give # and six"),
        ("colours", {"strength": 2.0}, "strength is 2.0. Give 0 to 1"),
    ],
)
def test_what_cannot_work_is_told_on_its_node(
    server: ComfyServer, finishing: Callable[..., PromptBuilder], node: str, inputs: dict[str, Any], match: str
) -> None:
    prompt = finishing(node, codec="vp9")
    prompt.add("odd", "OddFinishingModel")
    prompt.nodes[node]["inputs"].update(inputs)
    refused(server, prompt, match, node)
