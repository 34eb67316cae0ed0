"""Bad input through the server: a readable message, before work starts, and nothing half-written."""

import json
import re
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from comfy_client import PromptRefused
from PIL import Image
from safetensors.numpy import save_file
from video_facts import probe

SMALL = {"num_clip": 1, "infer_frames": 12, "width": 64, "height": 64}


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def refused(server, prompt, match: str, node: str) -> None:
    """The prompt must end with a message on one node, and leave no file behind."""
    before = files(server.output)
    try:
        result = server.client.run(prompt.nodes)
    except PromptRefused as error:
        assert re.search(match, str(error)), str(error)
        assert {node_id for node_id, _, _ in error.errors} >= {prompt.id(node)}
    else:
        assert result.error, "the run succeeded"
        assert re.search(match, result.error["exception_message"]), result.error["exception_message"]
        assert result.error["node_id"] == prompt.id(node)
        assert "Error" in result.error["exception_type"]
    assert files(server.output) == before


def write_wav(path: Path, samples: np.ndarray, rate: int) -> str:
    """samples [S, channels] in -1..1 as 16 bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path.name


def tone(seconds: float, rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)


def test_empty_audio(server, short_clip):
    prompt = short_clip(**SMALL)
    prompt.add("empty", "EmptyAudio", duration=0.0, sample_rate=16000, channels=1)
    prompt.set("LiveAvatar_AudioEncode", audio=["empty", 0])
    refused(server, prompt, "no (audio )?samples|empty", "LiveAvatar_AudioEncode")


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (8000, 1), (48000, 2), (16000, 1)])
def test_every_usual_sound_works(server, short_clip, rate, channels):
    samples = np.stack([tone(1.5, rate)] * channels, axis=1)
    name = write_wav(server.input / f"tone{rate}.wav", samples, rate)
    prompt = short_clip(**SMALL)
    prompt.set("LoadAudio", audio=name)
    prompt.set("LiveAvatar_AudioEncode", context="bounded" if rate == 48000 else "whole")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    saved = result.outputs[prompt.id("LiveAvatar_OnlineVAEDecode")]["images"][0]
    facts = probe(server.output / saved["subfolder"] / saved["filename"])
    assert facts.frames == 12 and facts.audio_codec == "aac"


def test_sound_with_values_that_are_not_numbers(server, short_clip):
    samples = tone(2.0, 16000).astype("<f4")
    samples[24000] = np.nan
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + samples.nbytes, b"WAVE", b"fmt ", 16, 3, 1, 16000, 64000, 4, 32)
    (server.input / "nan.wav").write_bytes(head + struct.pack("<4sI", b"data", samples.nbytes) + samples.tobytes())
    prompt = short_clip(**SMALL)
    prompt.set("LoadAudio", audio="nan.wav")
    refused(server, prompt, r"1\.5", "LiveAvatar_AudioEncode")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"infer_frames": 50}, r"infer_frames is 50.*multiple of 12.*60 or 48"),
        ({"num_clip": -1}, r"num_clip is -1. Use 1 or more, or 0 for as many"),
        ({"fps": 0.0}, r"fps|smaller than min"),
        ({"steps": 0}, r"smaller than min"),
        ({"width": 16}, r"smaller than min"),
        ({"relative_distance": 2}, r"relative_distance is 2; allowed are 4 to 30"),
    ],
)
def test_bad_plans(server, short_clip, change, match):
    refused(server, short_clip(**{**SMALL, **change}), match, "LiveAvatar_ClipScheduler")


def test_more_memory_than_the_machine_has_is_refused_before_work(server, short_clip):
    prompt = short_clip(**{**SMALL, "width": 2048, "height": 2048, "steps": 100})
    refused(
        server,
        prompt,
        r"needs [\d.]+ GiB.*What would help, the least harm first: .*steps \d in Clip Scheduler.*Plan Check",
        "LiveAvatar_DiTSampler",
    )


def test_more_clips_than_the_sound_has(server, short_clip):
    name = write_wav(server.input / "short.wav", tone(1.4, 16000)[:, None], 16000)
    prompt = short_clip(**{**SMALL, "num_clip": 50})
    prompt.set("LoadAudio", audio=name)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    saved = result.outputs[prompt.id("LiveAvatar_OnlineVAEDecode")]["images"][0]
    assert probe(server.output / saved["subfolder"] / saved["filename"]).frames == 24
    assert "50 was reduced to 2" in result.notes(prompt.id("LiveAvatar_DiTSampler"))[0]


def test_a_picture_of_one_pixel(server, short_clip):
    Image.new("RGB", (1, 1), "red").save(server.input / "pixel.png")
    prompt = short_clip(**SMALL)
    prompt.set("LoadImage", image="pixel.png")
    refused(server, prompt, r"1x1.*at least 16", "LiveAvatar_DiTSampler")


def test_a_transparent_picture_works(server, short_clip):
    Image.new("RGBA", (96, 128), (200, 50, 50, 100)).save(server.input / "glass.png")
    prompt = short_clip(**SMALL)
    prompt.set("LoadImage", image="glass.png")
    server.client.run(prompt.nodes).raise_for_error()


def test_weights_of_another_architecture(server, short_clip):
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"double_blocks.0.img_attn.qkv.weight": np.zeros((4, 4), np.float32)}, folder / "flux.safetensors")
    prompt = short_clip(**SMALL)
    prompt.set("LiveAvatar_LoadAvatarModel", model="flux.safetensors")
    refused(server, prompt, r"not a Live Avatar model.*Flux", "LiveAvatar_LoadAvatarModel")


def test_a_truncated_file(server, short_clip):
    from comfy_server import ROOT

    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    whole = (ROOT / "demo" / "liveavatar-demo" / "diffusion_pytorch_model.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    prompt = short_clip(**SMALL)
    prompt.set("LiveAvatar_LoadAvatarModel", model="half.safetensors")
    refused(server, prompt, r"half\.safetensors.*(truncated|shorter|incomplete)", "LiveAvatar_LoadAvatarModel")


@pytest.mark.parametrize("prefix", ["../outside", "/etc/outside", "a/../../outside", "", "folder/"])
def test_an_output_prefix_that_is_no_file_of_the_output_folder(server, short_clip, prefix):
    prompt = short_clip(**SMALL)
    prompt.set("LiveAvatar_OnlineVAEDecode", filename_prefix=prefix)
    refused(server, prompt, "filename_prefix", "LiveAvatar_OnlineVAEDecode")


def test_a_model_without_parts_says_what_to_connect(server, short_clip):
    """A single file has no VAE, text or audio encoder of its own: each consumer says what is missing."""
    from comfy_server import ROOT

    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    source = ROOT / "demo" / "liveavatar-demo" / "diffusion_pytorch_model.safetensors"
    (folder / "single.safetensors").write_bytes(source.read_bytes())
    prompt = short_clip(**SMALL)
    bundle = prompt.id("LiveAvatar_LoadAvatarModel")
    widgets = {"model": "single.safetensors", "lora": "none", "lora_strength": 1.0, "precision": "auto"}
    prompt.add("single", "LiveAvatar_LoadAvatarModel", **widgets)
    prompt.set("LiveAvatar_DiTSampler", model=["single", 0])
    server.client.run(prompt.nodes).raise_for_error()
    prompt.set("LiveAvatar_AudioEncode", audio_encoder=["single", 3])
    refused(server, prompt, "Load Audio Encoder", "LiveAvatar_AudioEncode")
    prompt.set("LiveAvatar_AudioEncode", audio_encoder=[bundle, 3])
    prompt.set("LiveAvatar_DiTSampler", vae=["single", 2])
    refused(server, prompt, "Load VAE", "LiveAvatar_DiTSampler")


def test_interruption_half_way_leaves_a_playable_file_and_can_go_on(server, short_clip):
    prompt = short_clip(num_clip=2, infer_frames=48, width=128, height=128, seed=77)
    sampler, decode = prompt.id("LiveAvatar_DiTSampler"), prompt.id("LiveAvatar_OnlineVAEDecode")
    before = files(server.output)
    seen = []

    def stop_after_three_blocks(event) -> None:
        if event.kind == "preview":
            seen.append(event)
            if len(seen) == 3:
                server.client.interrupt()

    result = server.client.run(prompt.nodes, on_event=stop_after_three_blocks)
    assert result.interrupted
    report, written = sorted(files(server.output) - before)
    facts = probe(written)
    assert facts.frames in (24, 36) and facts.audio_codec == "aac"
    told = json.loads(report.read_text(encoding="utf-8"))
    assert (
        told["ended"] == "interrupted"
        and told["video"] | {"file": written.name, "frames": facts.frames} == told["video"]
    )
    assert any("Stopped early" in text for text in result.texts(decode))
    again = server.client.run(prompt.nodes)
    again.raise_for_error()
    assert len(result.previews(sampler)) >= 3
    saved = again.outputs[decode]["images"][0]
    path = server.output / saved["subfolder"] / saved["filename"]
    assert probe(path).frames == 96
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    blocks, waits = told["blocks"], told["stages"]["waited_seconds"]
    assert blocks["written"] == 8 and blocks["replayed"] + blocks["sampled"] == 8 and blocks["replayed"] >= 2
    assert told["block_seconds"]["count"] == blocks["sampled"] - 1 and told["seconds"] > told["first_frame_seconds"] > 0
    assert set(waits) == {"sampler", "VAE", "encoder"} and waits["encoder"]["VAE"] > 0
    assert told["memory"][0]["device"] == "cpu" and 0 < told["memory"][0]["used"] < told["memory"][0]["total"]
    assert told["settings"]["plan"]["seed"] == 77 and told["settings"]["executor"] == "local"
    assert (told["settings"]["model"], told["settings"]["loras"]) == ("liveavatar-demo/", [])
    assert all(told["versions"][name] for name in ("pack", "comfyui", "torch", "python")) and told["bottleneck"]
