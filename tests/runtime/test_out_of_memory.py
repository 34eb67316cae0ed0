"""A device that is full while it works, told with what frees the most."""

import json
import re
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from media_files import run_python, video_writer
from tiny_avatar import PLAN, random_conditions, random_model

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.out_of_memory import DeviceFullError, full_device_told, is_out_of_memory, pictures_told
from liveavatar_runtime.planning.out_of_memory import sampling_told, sampling_ways
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
LARGE = ClipPlan(num_clip=1, width=688, height=368, keep_aspect=False)


def ask_for_too_much() -> torch.Tensor:
    """What no machine has; the allocator refuses it before it takes anything."""
    return torch.empty(2**60, dtype=torch.uint8)


def test_the_processors_allocator_is_known():
    with pytest.raises(RuntimeError) as caught:
        ask_for_too_much()
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 must have the same dtype"))


def test_a_full_device_while_sampling_is_told_with_what_helps():
    """A cache that cannot be had; the error is of the classes that users and ComfyUI know."""
    executor = LocalExecutor(random_model(), CPU, torch.float32, lambda *_: ask_for_too_much())  # pyright: ignore
    with pytest.raises(MachineError) as caught:
        next(executor.run(SamplingRequest(random_conditions(), PLAN)))
    assert isinstance(caught.value, torch.cuda.OutOfMemoryError)
    text = str(caught.value)
    size = rf"{PLAN.width}x{PLAN.height} in {PLAN.steps} steps"
    assert re.match(rf"cpu ran out of memory while sampling {size}: .*allocate memory", text), text
    assert "kv_dtype fp8 in DiT Sampler (" in text and "closing other programs that use cpu" in text
    # On the processor there is no other place for caches.
    assert "kv_cache ram" not in text


def test_the_ways_are_in_order_and_none_frees_nothing():
    work = Workload(WAN_S2V_14B, LARGE)
    ways = sampling_ways(work, Placement(batched=True), CARD)
    sizes = [float(found[0]) for way in ways if (found := re.findall(r"\(([\d.]+) GiB beside", way))]
    assert sizes == sorted(sizes) and len(sizes) == len(ways) - 1
    assert ways[0].startswith("kv_cache ram in DiT Sampler (")
    assert {"384x256 in Clip Scheduler", "kv_dtype fp8 in DiT Sampler"} <= {way.split(" (")[0] for way in ways}
    spare = Placement("ram", "fp8")
    names = {way.split(" (")[0] for way in sampling_ways(work, spare, CARD)}
    assert not names & {
        "kv_cache ram in DiT Sampler",
        "kv_dtype fp8 in DiT Sampler",
        "schedule sequential in DiT Sampler",
    }
    smaller = sampling_ways(replace(work, plan=replace(LARGE, width=384, height=256)), spare, CARD)
    assert not any("x" in way.split(" ")[0] for way in smaller)


def test_the_vaes_work_is_told_with_sizes():
    with pytest.raises(
        MachineError, match="cpu ran out of memory while decoding a block of 688x368: .*672x352 in Clip"
    ):
        with pictures_told("decoding a block of {size}", (688, 368), CPU):
            ask_for_too_much()


@pytest.mark.parametrize("error", [InputError("wrong"), ValueError("other"), MachineError("is out of memory already")])
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, full_device_told("working", CPU, list):
        raise error
    assert caught.value is error


FULL = {
    "local": r"cpu ran out of memory while sampling 2048x2048 in 4 steps: .*helps: 384x256 in Clip Scheduler \(",
    "layer pipeline": r"stage \d on cpu failed: cpu ran out of memory while sampling .*helps: 384x256 in Clip Sch",
    "timestep pipeline": r"stage \d on cpu failed: cpu ran out of memory .* in 2 steps: .*kv_dtype fp8 in DiT Sam",
    "decoding": r"while decoding a block of 2048x2048: .*helps: 384x256 in Clip Scheduler \(0\.1 GiB instead of 6\.2",
    "encoding": r"while encoding the picture at 2048x2048: .*helps: 384x256 in Clip Scheduler",
    "frames": r"making room for 24 frames of 2048x2048: .*helps: return_frames off in Online VAE Decode \(frees 1\.1",
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps the limit of a process's memory")
def test_memory_that_is_really_full_is_told_with_what_frees_the_most():
    """A process with a limit on its memory; ComfyUI unloads its models for an error of this class."""
    done = run_python((Path(__file__).parent / "full_memory_child.py").read_text())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() == FULL.keys()
    for work, (classes, text) in told.items():
        assert {"MachineError", "OutOfMemoryError"} <= set(classes), (work, classes, text)
        assert re.search(FULL[work], text) and "finished are kept" in text, (work, text)


def test_full_ram_is_told_as_such_beside_another_device():
    """Pinned memory, caches and states are in RAM: other settings help than for the card."""
    placement = Placement("ram", "model")
    with pytest.raises(
        MachineError, match=r"^cpu ran out of memory while sampling .*helps: kv_cache device in DiT"
    ) as e:
        with sampling_told(Workload(WAN_S2V_14B, LARGE), placement, CARD):
            ask_for_too_much()
    assert "384x256 in Clip Scheduler (" in str(e.value) and "state_budget 0" in str(e.value)
    with pytest.raises(MachineError, match=r"^cuda:0 ran out of memory while sampling "):
        with sampling_told(Workload(WAN_S2V_14B, LARGE), placement, CARD):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        OSError(12, "Cannot allocate memory"),
        MemoryError(),
    ],
)
def test_errors_of_every_allocator_are_known(error):
    assert is_out_of_memory(error)


def test_an_encoder_without_memory_does_not_blame_the_disk(tmp_path):
    """The error of FFmpeg's own class, raised where its encoder gives it."""
    from av.error import MemoryError as NoMemory

    path = tmp_path / "a.mp4"
    with pytest.raises(
        DeviceFullError, match="encoder libx265 ran out of memory.*frames .* play.*codec h264 in Onl"
    ) as e:
        with video_writer(path, 64, 64, Fraction(16), codec="hevc") as writer:
            for _ in range(3):
                writer.write_frames(torch.zeros(12, 64, 64, 3, dtype=torch.uint8))
            with writer._writing():
                raise NoMemory(12, "Cannot allocate memory", str(path))
    assert "disk" not in str(e.value) and path.exists()


def test_the_card_for_the_vae_is_told_with_the_way_that_frees_all():
    with pytest.raises(MachineError, match=r"helps: kv_cache ram in DiT Sampler.*; starting ComfyUI with --cpu-vae"):
        with pictures_told("decoding a block of {size}", (688, 368), CARD, 4800, beside_caches=True):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    # Nothing is sampled yet when the picture is encoded.
    with pytest.raises(MachineError, match=r"helps: starting ComfyUI with --cpu-vae"):
        with pictures_told("encoding the picture at {size}", (688, 368), CARD):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
