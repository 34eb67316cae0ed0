"""The files users have, in a real ComfyUI: quantised and GGUF transformers, several LoRAs, damaged files, memory."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy_server import ROOT, ComfyServer
from gguf import GGMLQuantizationType
from prompt_builder import PromptBuilder
from safetensors.numpy import load_file
from safetensors.torch import save_file
from test_gguf import demo_file
from tiny_vae_file import tiny_vae_weights
from video_facts import probe

from benchmarks.loading import write_fp8
from benchmarks.queue_memory import MIB, measure, provide_models
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint

SOURCE = ROOT / "demo" / "liveavatar-demo" / "diffusion_pytorch_model.safetensors"
SMALL = {"num_clip": 1, "infer_frames": 12, "width": 64, "height": 64, "seed": 9}
LOADER = "LiveAvatar_LoadAvatarModel"


@pytest.fixture(scope="module")
def models(server: ComfyServer) -> Path:
    """The server's models folder with the demo transformer as fp8, GGUF and half a GGUF, and three LoRAs."""
    folder = server.base / "models"
    for name in ("diffusion_models", "loras"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    source = open_checkpoint(SOURCE)
    write_fp8(dict(source.tensors), source.metadata, folder / "diffusion_models" / "fp8-demo.safetensors")
    whole = demo_file(folder / "diffusion_models" / "q8-demo.gguf", GGMLQuantizationType.Q8_0).read_bytes()
    (folder / "diffusion_models" / "half.gguf").write_bytes(whole[: len(whole) // 2])
    for seed, size in ((1, 128), (2, 128), (3, 64)):
        write_lora(folder / "loras" / f"lora{seed}.safetensors", seed, size)
    return folder


def write_lora(path: Path, seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"A": (4, size), "B": (size, 4)}
    name = "base_model.model.blocks.0.self_attn.v.lora_{}.weight"
    save_file({name.format(side): torch.randn(*shape, generator=generator) for side, shape in shapes.items()}, path)


def single_file(short_clip, **widgets) -> PromptBuilder:
    """The short clip with a second loader for the transformer; the bundle's other parts stay."""
    prompt = short_clip(**SMALL)
    values = {"model": SOURCE.name, "lora": "none", "lora_strength": 1.0, "precision": "auto", **widgets}
    prompt.add("single", LOADER, **values)
    prompt.set("LiveAvatar_DiTSampler", model=["single", 0])
    prompt.add("collect", "LiveAvatar_CollectLatents", latents=[prompt.id("LiveAvatar_DiTSampler"), 0])
    return prompt


def test_a_small_decoder_in_place_of_the_vaes_own(server, short_clip, models):
    (models / "vae").mkdir(exist_ok=True)
    save_file(tiny_vae_weights(), models / "vae" / "small-decoder.safetensors")
    prompt = short_clip(**SMALL)
    decode = prompt.id("LiveAvatar_OnlineVAEDecode")
    prompt.add("small", "VAELoader", vae_name="small-decoder.safetensors")
    prompt.set("LiveAvatar_OnlineVAEDecode", vae=["small", 0], filename_prefix="small/decoder")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    text = result.told(decode)
    assert "12 frames" in text and "The connected VAE is a small decoder" in text
    entry = result.outputs[decode]["images"][0]
    assert probe(server.output / entry["subfolder"] / entry["filename"]).frames == 12
    # It only decodes.
    sampler = prompt.id("LiveAvatar_DiTSampler")
    prompt.set("LiveAvatar_DiTSampler", vae=["small", 0])
    refused = server.client.run(prompt.nodes)
    assert refused.error is not None and refused.error["node_id"] == sampler
    assert "which only decodes: connect it to Online VAE Decode" in refused.error["exception_message"]


def latents(server: ComfyServer, prompt: PromptBuilder, name: str) -> np.ndarray:
    prompt.add("save", "SaveLatent", samples=["collect", 0], filename_prefix=name)
    server.client.run(prompt.nodes).raise_for_error()
    (file,) = server.output.glob(f"{name}_*.latent")
    return load_file(file)["latent_tensor"]


@pytest.fixture(scope="module")
def plain(server, short_clip) -> np.ndarray:
    """Latents of the bundle's own transformer."""
    prompt = short_clip(**SMALL)
    prompt.add("collect", "LiveAvatar_CollectLatents", latents=[prompt.id("LiveAvatar_DiTSampler"), 0])
    return latents(server, prompt, "plainfile")


@pytest.mark.parametrize(
    ("file", "precision", "bound"),
    [("fp8-demo.safetensors", "auto", 0.1), ("q8-demo.gguf", "auto", 0.03), ("q8-demo.gguf", "as in file", 0.03)],
)
def test_quantised_files_give_nearly_the_same(server, short_clip, models, plain, file, precision, bound):
    options = server.client.object_info()[LOADER]["input"]["required"]["model"][1]["options"]
    assert file in options
    name = f"{Path(file).stem}-{precision.replace(' ', '-')}"
    result = latents(server, single_file(short_clip, model=file, precision=precision), name)
    assert 1e-4 < np.linalg.norm(result - plain) / np.linalg.norm(plain) < bound


def test_several_loras_and_what_the_node_says(server, short_clip, models, plain):
    widgets = {
        "lora": "lora1.safetensors",
        "lora_strength": 0.5,
        "lora_2": "lora2.safetensors",
        "lora_2_strength": -1.0,
    }
    prompt = single_file(short_clip, model="q8-demo.gguf", **widgets)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    text = result.told("single")
    line = r"{}\.safetensors: strength {}, scale 1 \(no alpha stored\), 1 of 1 modules\n"
    assert re.search(line.format("lora1", "0\\.5") + line.format("lora2", "-1") + r".* GiB, computes in \w+", text), (
        text
    )
    bars = result.progress("single")
    assert bars[-1][0] == bars[-1][1]
    assert np.abs(latents(server, prompt, "loras") - plain).max() > 1e-2


@pytest.mark.parametrize(
    ("widgets", "match"),
    [
        ({"model": "half.gguf"}, r"half\.gguf cannot be read as weights.*Download or copy the file again"),
        ({"model": "q8-demo.gguf", "lora_3": "lora3.safetensors"}, r"lora3\.safetensors fits no layer.*64x64.*128x128"),
    ],
    ids=["gguf", "lora"],
)
def test_bad_files_are_named_on_the_node(server, short_clip, models, widgets, match):
    result = server.client.run(single_file(short_clip, **widgets).nodes)
    assert result.error and result.error["node_id"] == "single"
    assert re.search(match, result.error["exception_message"]), result.error["exception_message"]


def test_a_model_stays_loaded_between_runs(server, short_clip, models):
    def loaded() -> int:
        return len(re.findall(r"Loaded \S+fp8-demo\.safetensors in", server.log.read_text()))

    server.client.post("/free", {"free_memory": True, "unload_models": True})
    before = loaded()
    for seed in (21, 22):
        prompt = single_file(short_clip, model="fp8-demo.safetensors")
        prompt.set("LiveAvatar_ClipScheduler", seed=seed)
        server.client.run(prompt.nodes).raise_for_error()
    assert loaded() == before + 1


def test_memory_does_not_grow_with_model_switches_and_free_gives_it_back(server):
    """Two models of 220 and 130 MB in turn."""
    provide_models(server.base, layers=2)

    def trim() -> None:
        server.client.run({"trim": {"class_type": "OddTrim", "inputs": {}}}).raise_for_error()

    # Each model twice after the first run, which also fills what stays.
    figures = measure(server, runs=5, trim=trim)
    assert figures.growth(1) < 15, figures
    assert figures.runs[-1] - figures.freed > 60 * MIB, figures
