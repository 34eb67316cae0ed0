"""A real ComfyUI with workers of torchrun, the last of which decodes: same video, going on, another VAE, a kill."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from comfy_server import ROOT, ComfyServer, free_port, make_base
from safetensors.torch import load_file, save_file
from test_executors import last_frame, run
from test_spool import SMALL, sampled
from worker_group import end_processes

from liveavatar_workers.keys import make_files

LOADER, SAMPLER, DECODE = "LiveAvatar_LoadAvatarModel", "LiveAvatar_DiTSampler", "LiveAvatar_OnlineVAEDecode"
COMFYUI = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
MODEL = ROOT / "demo" / "liveavatar-demo"
VAE = MODEL / "Wan2.1_VAE.safetensors"
VIDEO: dict[str, Any] = {**SMALL, "num_clip": 2, "infer_frames": 24, "seed": 901}
LIMIT = 60.0


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys of both sides."""
    folder = tmp_path_factory.mktemp("keys")
    make_files(folder / "studio")
    make_files(folder / "comfyui")
    return folder


@pytest.fixture(scope="module")
def address(keys: Path) -> Iterator[str]:
    """Of two ranks that sample and one that decodes."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "3"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--max-restarts", "100"]
    command += ["-m", "liveavatar_workers.rank.worker", "--model", str(MODEL), "--executor", "layer_pipeline"]
    command += ["--vae", str(VAE), "--listen", address]
    command += ["--key", str(keys / "studio.key"), "--clients", str(keys / "comfyui.pub")]
    own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own})
    yield address
    end_processes(process)


@contextlib.contextmanager
def knows(base: Path, keys: Path, address: str) -> Iterator[None]:
    """In here ComfyUI's user folder says where the workers are and has the key for them."""
    settings, own = base / "user" / "liveavatar-workers.ini", base / "user" / "liveavatar-comfyui.key"
    key = (keys / "studio.pub").read_text().split()[-1]
    settings.write_text(f"[studio]\naddress = {address}\nkey = {key}\n")
    shutil.copy(keys / "comfyui.key", own)
    yield
    settings.unlink()
    own.unlink()


@pytest.fixture(scope="module")
def begun(server: ComfyServer, keys: Path, address: str, short_clip, tmp_path_factory) -> tuple[int, str]:
    """A video that workers sampled and decoded for a ComfyUI that has ended: its blocks, and the node's text."""
    base, spools = make_base(tmp_path_factory.mktemp("base")), "user/__liveavatar_spools"
    (server.base / spools).mkdir(exist_ok=True)
    (base / spools).symlink_to(server.base / spools, target_is_directory=True)
    with knows(base, keys, address), ComfyServer(COMFYUI, base) as first:
        prompt = prompt_of(short_clip, address, **VIDEO)
        result = first.client.run(prompt.nodes)
        result.raise_for_error()
        return sampled(result, prompt), result.told(prompt.id(DECODE))


@pytest.fixture(scope="module")
def comfy(server: ComfyServer, keys: Path, address: str) -> Iterator[ComfyServer]:
    """Another one, with the same folder of finished clips and a VAE that is not the demo's."""
    other = server.base / "models" / "vae" / "other.safetensors"
    other.parent.mkdir(exist_ok=True)
    save_file({name: 1.01 * tensor for name, tensor in load_file(VAE).items()}, other)
    with knows(server.base, keys, address):
        yield server
    other.unlink()


def prompt_of(short_clip, address: str, decoder: str = "auto", **inputs):
    prompt = short_clip(**inputs)
    prompt.set(LOADER, workers="studio")
    prompt.set(DECODE, decoder=decoder)
    return prompt


def test_a_video_that_workers_began_is_continued_by_another_comfyui(begun, comfy, address, short_clip):
    blocks, text = begun
    assert blocks == 4 and "Decoded by rank 2 of the workers (cpu on " in text
    prompt = prompt_of(short_clip, address, **{**VIDEO, "num_clip": 3})
    result = comfy.client.run(prompt.nodes)
    result.raise_for_error()
    assert sampled(result, prompt) == 2
    # The same file in this process: the same latents under the same key.
    prompt = short_clip(**{**VIDEO, "num_clip": 3})
    result = comfy.client.run(prompt.nodes)
    result.raise_for_error()
    assert sampled(result, prompt) == 0


def test_the_video_is_that_of_one_process(comfy, address, short_clip):
    expected = last_frame(comfy, run(comfy, short_clip, "one_process", executor="local")[1])
    prompt, result = run(comfy, short_clip, "torchrun", workers="studio")
    assert np.array_equal(last_frame(comfy, result), expected)
    assert "Decoded by rank 2" in result.told(prompt.id(DECODE))


def test_another_vae_decodes_here_or_is_refused(comfy, address, short_clip):
    told = {}
    for decoder in ("auto", "workers", "comfyui"):
        prompt = prompt_of(short_clip, address, decoder, **VIDEO)
        prompt.add("other", "VAELoader", vae_name="other.safetensors")
        prompt.set(DECODE, vae=["other", 0])
        result = comfy.client.run(prompt.nodes)
        told[decoder] = str(result.error) if result.error else result.told(prompt.id(DECODE))
    assert "Decoded by ComfyUI: rank 2 of the workers" in told["auto"] and "holds another VAE" in told["auto"]
    assert "decoder is workers, but rank 2 of the workers" in told["workers"] and "another VAE" in told["workers"]
    assert "workers" not in told["comfyui"]
    prompt = short_clip(**VIDEO)
    prompt.set(DECODE, decoder="workers")
    assert "come from a model in this ComfyUI" in str(comfy.client.run(prompt.nodes).error)


def test_a_decoding_rank_that_is_killed_is_told_and_the_next_prompt_works(comfy, address, short_clip):
    killed = []

    def kill_at_the_second_block(event) -> None:
        if event.kind == "preview":
            killed.append(time.monotonic())
            if len(killed) == 2:
                decoding_process(address).kill()

    prompt = prompt_of(short_clip, address, **{**VIDEO, "num_clip": 5, "seed": 902})
    result = comfy.client.run(prompt.nodes, on_event=kill_at_the_second_block)
    (told,) = (line for line in str(result.error).splitlines() if "The workers ended: " in line)
    assert "rank 2 (cpu on " in told and told.count("rank ") == 1 and time.monotonic() - killed[1] < LIMIT
    again = comfy.client.run(prompt.nodes)
    again.raise_for_error()
    assert "Decoded by rank 2" in again.told(prompt.id(DECODE))


def decoding_process(address: str) -> psutil.Process:
    ranks = [p for p in psutil.Process().children(recursive=True) if address in p.cmdline()]
    (found,) = [process for process in ranks if process.environ().get("RANK") == "2"]
    return found
