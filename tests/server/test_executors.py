"""Executors in a real ComfyUI: whichever is chosen, the video is the same; their processes end with the model."""

import contextlib
import json
import time

import numpy as np
import psutil
import pytest
from comfy_client import PromptRefused
from PIL import Image


def run(server, short_clip, name, driven=False, infer_frames=24, **loader):
    """A clip of two blocks, its last frame saved; `driven` by the picture itself, as a pose that stays."""
    prompt = short_clip(num_clip=1, infer_frames=infer_frames, width=64, height=64)
    prompt.set("LiveAvatar_LoadAvatarModel", **loader)
    # What one executor has finished would only be replayed with the next.
    prompt.set("LiveAvatar_DiTSampler", spool="until ComfyUI ends")
    prompt.set("LiveAvatar_OnlineVAEDecode", filename_prefix=f"executors/{name}")
    if driven:
        prompt.set("LiveAvatar_DiTSampler", pose_video=[prompt.id("LoadImage"), 0])
    prompt.add("last", "SaveImage", images=[prompt.id("LiveAvatar_OnlineVAEDecode"), 1], filename_prefix=name)
    return prompt, server.client.run(prompt.nodes, workflow=prompt.workflow)


def last_frame(server, result):
    result.raise_for_error()
    (file,) = result.outputs["last"]["images"]
    return np.asarray(Image.open(server.output / file["subfolder"] / file["filename"]).convert("RGB"))


def running_workers(server):
    """Worker processes of the server."""
    found = []
    for process in psutil.Process(server.process_id).children(recursive=True):
        # One that is just ending has no command any more.
        with contextlib.suppress(psutil.Error):
            found += [process] if "liveavatar_workers.rank" in " ".join(process.cmdline()) else []
    return found


def speeds_of(server, executor):
    """The kinds of devices that an executor's recorded speeds are of."""
    files = (server.base / "user" / "__liveavatar_speeds").glob("*.json")
    keys = [json.loads(file.read_text(encoding="utf-8"))["key"] for file in files]
    return [tuple(card.split()[0] for card in key["cards"]) for key in keys if key["executor"] == executor]


@pytest.fixture(autouse=True)
def no_workers_left(server):
    """What a failed test leaves must not fail the next one."""
    yield
    if running_workers(server):
        forget_models(server)


@pytest.fixture(scope="module")
def expected(server, short_clip):
    return last_frame(server, run(server, short_clip, "local", executor="local")[1])


@pytest.mark.parametrize("executor", ["layer_pipeline", "timestep_pipeline", "auto"])
def test_pipelines_in_comfyui_give_the_same_video(server, short_clip, expected, executor):
    prompt, result = run(server, short_clip, executor, executor=executor, devices="cpu,cpu")
    assert np.array_equal(last_frame(server, result), expected)
    assert not running_workers(server)
    text = result.told(prompt.id("LiveAvatar_DiTSampler"))
    why = [line for line in text.splitlines() if line.startswith("auto chose ")]
    assert len(why) == (executor == "auto")
    assert all(line.startswith("auto chose layer_pipeline: the stages share one device, ") for line in why)
    stages = ["cpu: steps 0 to 1", "cpu: steps 2 to 3"] if executor == "timestep_pipeline" else ["cpu: layers 0 to"]
    assert all(stage in text for stage in stages)


def test_fsdp_runs_in_workers_that_stay_until_the_model_goes(server, short_clip, expected):
    prompt, result = run(server, short_clip, "fsdp", executor="fsdp", devices="cpu,cpu")
    assert np.array_equal(last_frame(server, result), expected)
    sampler = prompt.id("LiveAvatar_DiTSampler")
    assert (8, 8) in result.progress(sampler) and len(result.previews(sampler)) == 2
    first = {process.pid for process in running_workers(server)}
    assert len(first) == 3, "launcher and two ranks"
    # Kept this time.
    assert sample(server, short_clip, 871, FSDP)[0] == 2
    assert {process.pid for process in running_workers(server)} == first
    _, result = run(server, short_clip, "fsdp_driven", True, executor="fsdp", devices="cpu,cpu")
    driven = last_frame(server, result)
    # Nine blocks, enough to tell the planner how fast these workers are.
    _, result = run(server, short_clip, "fsdp_long", infer_frames=108, executor="fsdp", devices="cpu,cpu")
    result.raise_for_error()
    assert speeds_of(server, "fsdp") == [("cpu", "cpu")]
    assert {process.pid for process in running_workers(server)} == first
    forget_models(server)
    for loader in (FSDP, LOCAL):
        assert sample(server, short_clip, 871, loader, **WITHOUT_EFFECT)[0] == 0
    # A finished video needs no workers.
    assert not running_workers(server)
    assert not np.array_equal(driven, expected)
    assert np.array_equal(driven, last_frame(server, run(server, short_clip, "driven", True, executor="local")[1]))


def forget_models(server):
    """Let the server drop its models; their workers end.

    Asked again and again: what comes while ComfyUI collects garbage after a prompt is only seen with the next one.
    """
    deadline = time.monotonic() + 60
    while running_workers(server) and time.monotonic() < deadline:
        server.client.post("/free", {"free_memory": True, "unload_models": True})
        time.sleep(1)
    assert not running_workers(server)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ({"executor": "fsdp", "devices": "cpu,cpu,cpu,cpu,cpu"}, "the model has 4 layers"),
        ({"executor": "layer_pipeline", "devices": "cuda:77"}, "devices names 'cuda:77'"),
        ({"executor": "local", "devices": "cpu,cpu"}, "local runs on one device"),
        ({"executor": "fsdp", "devices": "cpu,cpu", "precision": "fp8_e4m3fn"}, "precision is fp8_e4m3fn"),
        ({"executor": "magic"}, "executor is 'magic'"),
        ({"workers": "nonsense"}, "is no name of a group"),
        ({"workers": "127.0.0.1:1"}, "an address is not taken from a workflow"),
        ({"workers": "127.0.0.1:1"}, "[NAME]\naddress = 127.0.0.1:1\nkey = PUBLIC KEY"),
    ],
)
def test_wrong_choices_are_told_before_anything_starts(server, short_clip, loader, message):
    try:
        told = str(run(server, short_clip, "wrong", **loader)[1].error)
    except PromptRefused as error:
        told = str(error)
    assert message in told
    assert not running_workers(server)


def sample(server, short_clip, seed, loader, **sampler):
    """A clip of two blocks that is kept; returns the number of blocks that were sampled now, and what is told."""
    prompt = short_clip(num_clip=1, infer_frames=24, width=64, height=64, seed=seed)
    prompt.set("LiveAvatar_LoadAvatarModel", **loader)
    prompt.set("LiveAvatar_DiTSampler", **sampler)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    node = prompt.id("LiveAvatar_DiTSampler")
    return len(result.previews(node)), result.told(node)


LOCAL = {"executor": "local"}
LAYERS, STEPS, FSDP = ({"executor": e, "devices": "cpu,cpu"} for e in ("layer_pipeline", "timestep_pipeline", "fsdp"))
WITHOUT_EFFECT = {"attention": "sdpa", "schedule": "batched", "kv_cache": "ram"}


def test_what_one_executor_has_sampled_all_others_replay(server, short_clip):
    """Nobody's hours are sampled again for a setting that does not change latents."""
    assert sample(server, short_clip, 870, LOCAL)[0] == 2
    for loader in (LAYERS, STEPS, FSDP):
        assert sample(server, short_clip, 870, loader)[0] == 0
    assert not running_workers(server)


def test_a_setting_that_changes_latents_samples_anew_and_says_so(server, short_clip):
    assert sample(server, short_clip, 872, LOCAL, kv_dtype="fp8")[0] == 2
    blocks, told = sample(server, short_clip, 872, LOCAL)
    # What auto has to choose, it takes from the clips that are there.
    assert blocks == 0 and "kv_dtype auto is fp8: 1 of 1 clips of this video are finished with kv_dtype fp8" in told
    blocks, told = sample(server, short_clip, 872, LOCAL, kv_dtype="model")
    assert blocks == 2 and "⚠ 1 of 1 clips are finished with kv_dtype fp8 and are not used: " in told
    assert "Choose kv_dtype fp8 to go on with them." in told
    blocks, told = sample(server, short_clip, 872, LAYERS)
    assert blocks == 0 and "kv_dtype fp8" not in told
    assert sample(server, short_clip, 872, {**LOCAL, "precision": "bf16"})[0] == 2
