"""The main job in a real ComfyUI: picture, voice and prompt to a playable video."""

import io
import json
from fractions import Fraction

import numpy as np
import pytest
from comfy_server import ROOT
from PIL import Image
from safetensors.numpy import load_file, save_file
from video_facts import probe, read_frame

NODES = {
    "LiveAvatar_LoadAvatarModel": "Load Avatar Model",
    "LiveAvatar_AudioEncode": "Audio Encode",
    "LiveAvatar_ClipScheduler": "Clip Scheduler",
    "LiveAvatar_DiTSampler": "DiT Sampler",
    "LiveAvatar_OnlineVAEDecode": "Online VAE Decode",
    "LiveAvatar_DurationCalc": "Duration Calc",
    "LiveAvatar_CollectLatents": "Collect Latents",
    "LiveAvatar_Spools": "Finished Clips (Spools)",
    "LiveAvatar_JoinSegments": "Join Segments",
    "LiveAvatar_PlanCheck": "Plan Check",
    "LiveAvatar_HardwareProbe": "Hardware Probe",
    "LiveAvatar_AvatarScript": "Avatar Script",
    "LiveAvatar_ScriptChange": "Script Change",
    "LiveAvatar_Speakers": "Speakers",
    "LiveAvatar_FinishUpscale": "Finish Upscale",
    "LiveAvatar_FinishColours": "Finish Colours",
    "LiveAvatar_FinishBackground": "Finish Background",
    "LiveAvatar_FinishFrameRate": "Finish Frame Rate",
    "LiveAvatar_ClipJudge": "Clip Judge",
    "LiveAvatar_LiveVoice": "Live Voice",
    "LiveAvatar_LiveOut": "Live Out",
}


def test_object_info_shows_the_nodes(server):
    info = server.client.object_info()
    assert {name for name in info if name.startswith("LiveAvatar_")} == set(NODES)
    for name, title in NODES.items():
        assert info[name]["display_name"] == title and info[name]["category"] == "LiveAvatar"
        inputs = {**info[name]["input"]["required"], **info[name]["input"].get("optional", {})}
        assert all(spec[1].get("tooltip") for spec in inputs.values())


def test_the_loader_always_offers_the_demo_model(server):
    spec = server.client.object_info()["LiveAvatar_LoadAvatarModel"]["input"]["required"]["model"]
    assert "liveavatar-demo/" in spec[1]["options"]


@pytest.fixture(scope="module")
def finished(server, short_clip):
    """The workflow as it is, except for its size and length; with the last frame and all frames saved."""
    prompt = short_clip(num_clip=2, infer_frames=24, width=128, height=128)
    prompt.set("LiveAvatar_OnlineVAEDecode", return_frames=True, crf=1)
    decode = prompt.id("LiveAvatar_OnlineVAEDecode")
    prompt.add("last", "SaveImage", images=[decode, 1], filename_prefix="last")
    prompt.add("all", "SaveImage", images=[decode, 2], filename_prefix="all")
    result = server.client.run(prompt.nodes, workflow=prompt.workflow)
    result.raise_for_error()
    return prompt, result


def video_path(server, finished):
    prompt, result = finished
    saved = result.outputs[prompt.id("LiveAvatar_OnlineVAEDecode")]["images"][0]
    return server.output / saved["subfolder"] / saved["filename"]


def test_progress_and_previews_are_on_the_right_nodes(finished):
    prompt, result = finished
    sampler, decode = prompt.id("LiveAvatar_DiTSampler"), prompt.id("LiveAvatar_OnlineVAEDecode")
    evaluations, frames = 2 * 2 * 4, 48
    assert (evaluations, evaluations) in result.progress(sampler)
    assert (frames, frames) in result.progress(decode)
    values = [value for value, total in result.progress(sampler) if total == evaluations]
    assert values == sorted(values) and len(values) >= 4
    assert len(result.previews(sampler)) == 4, "one preview a block"
    assert not result.previews(decode)
    picture = Image.open(io.BytesIO(result.previews(sampler)[-1]))
    assert np.asarray(picture).std() > 1, "the preview is one colour"


def test_the_video_has_exactly_the_planned_frames_and_sound(server, finished):
    facts = probe(video_path(server, finished))
    assert (facts.codec, facts.audio_codec) == ("h264", "aac")
    assert facts.frames == 48 and facts.fps == Fraction(16)
    assert abs((facts.audio_duration or 0) - Fraction(48, 16)) <= Fraction(1, 16)
    assert facts.width % 64 == 0 and facts.height % 64 == 0


def test_history_names_a_file_that_the_browser_gets(server, finished):
    prompt, result = finished
    saved = result.outputs[prompt.id("LiveAvatar_OnlineVAEDecode")]["images"][0]
    assert server.client.view(**saved) == video_path(server, finished).read_bytes()


def luma(picture: np.ndarray) -> np.ndarray:
    """BT.709 brightness [H, W]; colour has half the resolution in the file."""
    return picture.astype(float) @ np.array([0.2126, 0.7152, 0.0722])


def saved_pictures(server, result, node: str) -> list[np.ndarray]:
    files = result.outputs[node]["images"]
    return [np.asarray(Image.open(server.output / f["subfolder"] / f["filename"]).convert("RGB")) for f in files]


def test_the_last_frame_is_the_videos_last_frame(server, finished):
    _, result = finished
    last, frames = saved_pictures(server, result, "last"), saved_pictures(server, result, "all")
    assert len(last) == 1 and len(frames) == 48
    assert np.array_equal(last[0], frames[-1])
    in_file = luma(read_frame(video_path(server, finished), "last"))
    difference = np.abs(in_file - luma(last[0])).mean()
    others = min(np.abs(in_file - luma(frame)).mean() for frame in frames[:-4])
    assert difference < 3 and difference < others


def test_the_first_three_frames_hold_the_fourth(server, finished):
    frames = saved_pictures(server, finished[1], "all")
    assert all(np.array_equal(frame, frames[3]) for frame in frames[:3])
    assert not np.array_equal(frames[3], frames[4])


def test_the_file_carries_its_workflow(server, finished):
    import av

    with av.open(video_path(server, finished)) as container:
        metadata = container.metadata
    assert json.loads(metadata["workflow"]) == finished[0].workflow
    assert json.loads(metadata["prompt"]).keys() == finished[0].nodes.keys()


def test_the_same_seed_gives_the_same_video_and_another_differs(server, short_clip):
    def last_frame(seed: int, prefix: str) -> np.ndarray:
        prompt = short_clip(num_clip=1, infer_frames=12, width=64, height=64, seed=seed)
        # A prefix of its own makes the run a new one for ComfyUI's cache; steps too, so that sampling is repeated.
        prompt.set("LiveAvatar_OnlineVAEDecode", filename_prefix=f"seeds/{prefix}")
        prompt.set("CLIPTextEncode", text="a person talks")
        prompt.set("LiveAvatar_DiTSampler", spool="until ComfyUI ends")
        prompt.add("last", "SaveImage", images=[prompt.id("LiveAvatar_OnlineVAEDecode"), 1], filename_prefix=prefix)
        server.client.post("/free", {"free_memory": True, "unload_models": True})
        result = server.client.run(prompt.nodes)
        result.raise_for_error()
        return saved_pictures(server, result, "last")[0]

    first, again, other = last_frame(1, "first"), last_frame(1, "again"), last_frame(2, "other")
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_changing_the_codec_settings_does_not_sample_again(server, short_clip):
    prompt = short_clip(num_clip=1, infer_frames=24, width=64, height=64, seed=5)
    server.client.run(prompt.nodes).raise_for_error()
    prompt.set("LiveAvatar_OnlineVAEDecode", crf=30)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    assert not result.previews(), "blocks were sampled again"
    assert result.outputs[prompt.id("LiveAvatar_OnlineVAEDecode")]


def test_trim_leaves_out_the_first_frames_and_their_sound(server, short_clip):
    prompt = short_clip(num_clip=1, infer_frames=24, width=64, height=64)
    prompt.set("LiveAvatar_OnlineVAEDecode", start="trim")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    facts = probe(video_path(server, (prompt, result)))
    assert facts.frames == 21 and abs((facts.audio_duration or 0) - Fraction(21, 16)) <= Fraction(1, 16)


def test_native_nodes_take_the_latents_and_the_video(server, short_clip):
    """CollectLatents -> VAEDecode -> SaveImage, and the VIDEO output -> SaveVideo."""
    prompt = short_clip(num_clip=1, infer_frames=24, width=64, height=64)
    prompt.add("collect", "LiveAvatar_CollectLatents", latents=[prompt.id("LiveAvatar_DiTSampler"), 0])
    prompt.add("decode", "VAEDecode", samples=["collect", 0], vae=[prompt.id("LiveAvatar_LoadAvatarModel"), 2])
    prompt.add("all", "SaveImage", images=["decode", 0], filename_prefix="native")
    video = [prompt.id("LiveAvatar_OnlineVAEDecode"), 0]
    prompt.add("save", "SaveVideo", video=video, filename_prefix="copy", format="auto", codec="auto")
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    assert len(saved_pictures(server, result, "all")) == 4 * 6 - 3
    saved = result.outputs["save"]["images"][0]
    assert probe(server.output / saved["subfolder"] / saved["filename"]).frames == 24


def test_duration_calc_both_ways(server):
    def run(**inputs):
        node = {"class_type": "LiveAvatar_DurationCalc", "inputs": inputs}
        show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
        seconds = {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}
        result = server.client.run({"1": node, "2": show, "3": seconds})
        result.raise_for_error()
        return [result.outputs[node]["text"][0] for node in ("2", "3")]

    common = {"infer_frames": 48, "fps": 16.0}
    assert run(solve_for="duration", num_clip=50, duration=0.0, **common) == ["50", "150.0"]
    assert run(solve_for="num_clip", num_clip=1, duration=150.0, **common) == ["50", "150.0"]
    assert run(solve_for="num_clip", num_clip=1, duration=150.01, **common) == ["51", "153.0"]


def test_a_model_of_native_loaders_with_a_native_lora(server, short_clip):
    """Load Diffusion Model -> Load LoRA (model only) -> base_model, sampled on core's own modules."""
    folder = server.base / "models"
    for name in ("diffusion_models", "loras"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    source = ROOT / "demo" / "liveavatar-demo" / "diffusion_pytorch_model.safetensors"
    (folder / "diffusion_models" / "native.safetensors").write_bytes(source.read_bytes())
    factors = {"lora_down": (4, 128), "lora_up": (128, 4)}
    rng = np.random.default_rng(0)
    lora = {
        f"diffusion_model.blocks.0.self_attn.v.{name}.weight": rng.normal(size=shape).astype(np.float32)
        for name, shape in factors.items()
    }
    save_file(lora, folder / "loras" / "native-lora.safetensors")
    prompt = short_clip(num_clip=1, infer_frames=12, width=64, height=64, seed=9)
    sampler = prompt.id("LiveAvatar_DiTSampler")
    prompt.add("collect", "LiveAvatar_CollectLatents", latents=[sampler, 0])
    prompt.add("save", "SaveLatent", samples=["collect", 0], filename_prefix="plain")
    server.client.run(prompt.nodes).raise_for_error()
    prompt.add("unet", "UNETLoader", unet_name="native.safetensors", weight_dtype="default")
    widgets = {"lora_name": "native-lora.safetensors", "strength_model": 1.0}
    prompt.add("lora", "LoraLoaderModelOnly", model=["unet", 0], **widgets)

    def latents(prefix: str, model: str) -> np.ndarray:
        prompt.set("LiveAvatar_LoadAvatarModel", base_model=[model, 0])
        prompt.nodes["save"]["inputs"]["filename_prefix"] = prefix
        server.client.run(prompt.nodes).raise_for_error()
        (file,) = server.output.glob(f"{prefix}_*.latent")
        return load_file(file)["latent_tensor"]

    (file,) = server.output.glob("plain_*.latent")
    plain = load_file(file)["latent_tensor"]
    assert np.abs(latents("native", "unet") - plain).max() <= 1e-5
    assert np.abs(latents("patched", "lora") - plain).max() > 1e-3
