"""Finished clips in a real ComfyUI: they survive its cache and an interruption; segments; Finished Clips.

That they survive a kill -9 of the server is in test_headless.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from comfy_client import PromptRefused
from PIL import Image
from safetensors.numpy import load_file

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
SMALL = {"num_clip": 4, "infer_frames": 12, "width": 64, "height": 64}
BLOCKS = 4


def forget(server) -> None:
    """Drop the server's own cache of results, so that only the disk remembers."""
    server.client.post("/free", {"free_memory": True, "unload_models": True})


def with_latents(prompt, prefix: str):
    """The prompt with its latents saved as well, so that it also has to run again."""
    prompt.add("collect", "LiveAvatar_CollectLatents", latents=[prompt.id("LiveAvatar_DiTSampler"), 0])
    prompt.add("save", "SaveLatent", samples=["collect", 0], filename_prefix=prefix)
    return prompt


def latents(server, prefix: str) -> np.ndarray:
    (file,) = server.output.glob(f"{prefix}_*.latent")
    return load_file(file)["latent_tensor"]


def sampled(result, prompt) -> int:
    """Blocks that were sampled: each shows a preview."""
    return len(result.previews(prompt.id("LiveAvatar_DiTSampler")))


def spool_files(base: Path) -> list[Path]:
    return sorted((base / "user" / "__liveavatar_spools").glob("*/clip-*"))


def test_interruption_then_the_same_graph_goes_on_exactly(server, short_clip):
    whole = with_latents(short_clip(**SMALL, seed=800), "whole")
    whole.set("LiveAvatar_DiTSampler", spool="until ComfyUI ends")
    before = spool_files(server.base)
    result = server.client.run(whole.nodes)
    result.raise_for_error()
    assert sampled(result, whole) == BLOCKS and spool_files(server.base) == before
    prompt = with_latents(short_clip(**SMALL, seed=800), "resumed")
    seen = []

    def stop_after_three_blocks(event) -> None:
        if event.kind == "preview":
            seen.append(event)
            if len(seen) == 3:
                server.client.interrupt()

    assert server.client.run(prompt.nodes, on_event=stop_after_three_blocks).interrupted
    forget(server)
    again = server.client.run(prompt.nodes)
    again.raise_for_error()
    assert sampled(again, prompt) == BLOCKS - len(seen)
    assert "clips are finished: going on with clip" in again.told(prompt.id("LiveAvatar_DiTSampler"))
    assert np.array_equal(latents(server, "resumed"), latents(server, "whole"))


def test_changing_only_crf_decodes_again_and_samples_nothing(server, short_clip):
    prompt = short_clip(**SMALL, seed=801)
    decode = prompt.id("LiveAvatar_OnlineVAEDecode")
    first = server.client.run(prompt.nodes)
    first.raise_for_error()
    forget(server)
    prompt.set("LiveAvatar_OnlineVAEDecode", crf=40)
    second = server.client.run(prompt.nodes)
    second.raise_for_error()
    assert sampled(first, prompt) == BLOCKS and sampled(second, prompt) == 0
    sampler = prompt.id("LiveAvatar_DiTSampler")
    steps = [result.progress(sampler) for result in (first, second)]
    assert steps[0][-1] == (16, 16) and all(total != 16 for _, total in steps[1])
    files = [result.outputs[decode]["images"][0]["filename"] for result in (first, second)]
    assert files[0] != files[1]


def test_segments_equal_the_whole_and_make_what_is_missing(server, short_clip):
    whole = with_latents(short_clip(**SMALL, seed=802), "all-at-once")
    whole.set("LiveAvatar_DiTSampler", spool="until ComfyUI ends")
    server.client.run(whole.nodes).raise_for_error()
    parts = []
    for index in (1, 0):
        prompt = short_clip(**SMALL, seed=802, segment_clips=2, segment_index=index)
        result = server.client.run(with_latents(prompt, f"part{index}").nodes)
        result.raise_for_error()
        parts.insert(0, latents(server, f"part{index}"))
        told = result.told(prompt.id("LiveAvatar_DiTSampler"))
        assert sampled(result, prompt) == (BLOCKS if index else 0)
        assert ("before this segment, are missing" in told) == bool(index)
        assert f"clips {2 * index + 1} to {2 * index + 2}, 24 frames" in told
    assert np.array_equal(np.concatenate(parts, axis=2), latents(server, "all-at-once"))


def test_a_segment_that_is_not_there_is_refused(server, short_clip):
    prompt = short_clip(**SMALL, segment_clips=2, segment_index=2)
    with pytest.raises(PromptRefused, match="segment_index is 2; 4 clips in segments of 2 make 2"):
        server.client.run(prompt.nodes)


def test_a_prompt_or_a_motion_strength_makes_another_video(server, short_clip):
    prompt = short_clip(**{**SMALL, "num_clip": 1}, seed=803)
    server.client.run(prompt.nodes).raise_for_error()
    before = spool_files(server.base)
    words = prompt.nodes[prompt.id("CLIPTextEncode")]["inputs"]["text"]
    for number, (text, strength, blocks) in enumerate(
        [("another prompt", 1.0, 1), (words, 1.5, 1), (words, 1.0, 0)], 1
    ):
        prompt.set("CLIPTextEncode", text=text)
        prompt.set("LiveAvatar_DiTSampler", motion_strength=strength)
        result = server.client.run(prompt.nodes)
        result.raise_for_error()
        assert sampled(result, prompt) == blocks and len(spool_files(server.base)) == len(before) + min(number, 2)


def test_advice_on_long_videos(server, short_clip):
    prompt = short_clip(**{**SMALL, "num_clip": 900}, seed=804, sink_policy="reanchor", reanchor_clips=50)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    text = result.told(prompt.id("LiveAvatar_ClipScheduler"))
    for part in (
        "return_frames and Collect Latents are refused",
        "drift",
        "Warning",
        "every 50 clips; 18 times",
        "Disk",
    ):
        assert part in text


def test_avatar_spools_lists_and_clears(server, short_clip):
    server.client.run(short_clip(**{**SMALL, "num_clip": 1}, seed=805).nodes).raise_for_error()

    def run(action: str, days: float) -> str:
        nodes = {"1": {"class_type": "LiveAvatar_Spools", "inputs": {"action": action, "unused_days": days}}}
        result = server.client.run(nodes)
        result.raise_for_error()
        return result.told("1")

    listed = run("list", 0.0)
    assert "1 clips" in listed and "seed 805" in listed and "64x64" in listed
    assert run("clear", 1.0).startswith("Cleared 0") and run("list", 0.0).splitlines()[0] == listed.splitlines()[0]
    assert "0 spools" in run("clear", 0.0) and not spool_files(server.base)


def test_branches_are_listed_and_shown_and_one_is_cleared(server, short_clip):
    for takes in ("", "2-: 1", "1: 3"):
        short = {**SMALL, "num_clip": 3, "takes": takes}
        server.client.run(short_clip(**short, seed=806).nodes).raise_for_error()

    def run(**inputs: str) -> tuple[str, np.ndarray | None]:
        given = {"action": "list", "unused_days": 0.0, **inputs}
        result = server.client.run({"1": {"class_type": "LiveAvatar_Spools", "inputs": given}})
        result.raise_for_error()
        shown = result.outputs["1"].get("images")
        return result.told("1"), np.asarray(Image.open(io.BytesIO(server.client.view(**shown[0])))) if shown else None

    text, sheet = run()
    lines = text.splitlines()
    (place,) = [number for number, line in enumerate(lines) if "seed 806" in line and "branches 1" in line]
    name = lines[place + 1].partition(":")[0]
    assert ": 5 clips, " in lines[place] and "from clip 2 on, 2 clips of its own" in lines[place + 1]
    assert sheet is not None and sheet.shape[1] <= 1200 and sheet.reshape(-1, 3).std(0).min() > 10
    ARTIFACTS.mkdir(exist_ok=True)
    Image.fromarray(sheet).save(ARTIFACTS / "contact-sheet.png")
    text, _ = run(action="clear", only=name)
    assert text.startswith(f"Cleared {name}: ") and "branches" not in text and ": 3 clips, " in text
    assert run(action="clear", only=name)[0].startswith(f"Nothing was cleared: no video or branch is named {name}")
    assert run(action="clear")[1] is None
