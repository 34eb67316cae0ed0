"""Good files that memory has no room for: they load all the same, or the words say what is too small."""

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from big_model_child import sampled
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from benchmarks.loading import write_files
from liveavatar_runtime.checkpoint import stored, transformer
from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.offload import CPU, is_on_disk, load_from_disk
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint, read_weight_file
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.errors import CheckpointError, MemoryShortage
from liveavatar_runtime.system_memory import available_memory, is_shortage

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
CHILD = Path(__file__).with_name("big_model_child.py")
CHILD_PATHS = (CHILD.parents[2], CHILD.parents[1] / "comfy_parity")
BUNDLE = find_bundle(Path(__file__).parents[2] / "demo" / "liveavatar-demo")
MODEL = BUNDLE.folder / "diffusion_pytorch_model.safetensors"


@linux
def test_a_model_larger_than_memory_is_computed_from_the_disk(tmp_path, one_thread):
    """No memory map is possible, nor room for the weights: the layers read theirs when they are called."""
    write_files(tmp_path, layers=5, names=["bf16.safetensors"], ffn_dim=8192)
    file = tmp_path / "bf16.safetensors"
    room, output = str(file.stat().st_size * 2 // 3), tmp_path / "limited.safetensors"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, CHILD_PATHS))}
    subprocess.run([sys.executable, str(CHILD), str(file), room, str(output)], check=True, env=environment)
    free = sampled(load_transformer(file))
    assert torch.equal(load_file(output)["latents"], free)


def sparse_file(path: Path, size: int) -> torch.Tensor:
    """A safetensors file of `size` bytes and more that takes hardly any of the disk: holes, and one real tensor."""
    real = torch.arange(1000, dtype=torch.float32)
    header, end = {"real": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}, 4000
    while end < size:
        header[f"hole{end}"] = {"dtype": "BF16", "shape": [2**28], "data_offsets": [end, end + 2**29]}
        end += 2**29
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + bytes(real.numpy()))
        file.truncate(8 + len(text) + end)
    return real


@linux
def test_a_file_that_the_system_does_not_map_as_a_whole(tmp_path):
    """Linux refuses to set aside more than all its memory, but not parts of that."""
    if Path("/proc/sys/vm/overcommit_memory").read_text(encoding="utf-8").strip() != "0":
        pytest.skip("this system maps everything, or nothing, that is larger than its memory")
    file = tmp_path / "large.safetensors"
    real = sparse_file(file, psutil.virtual_memory().total + psutil.swap_memory().total + 2**30)
    with pytest.raises(Exception, match="annot allocate memory") as refused, safe_open(file, "pt") as opened:
        opened.get_tensor("real")
    assert is_shortage(refused.value)
    checkpoint = open_checkpoint(file)
    assert checkpoint.mapped and torch.equal(checkpoint.tensors["real"], real)
    last = checkpoint.tensors[list(checkpoint.tensors)[-1]]
    assert last.shape == (2**28,) and float(last[-1]) == 0
    assert torch.equal(read_weight_file(file)[0]["real"], real)


def test_windows_over_a_file_give_its_tensors(tmp_path):
    expected = load_file(MODEL)
    for window in (1, 50_000, 2**30):
        tensors = stored.mapped_in_windows(stored.places_in(MODEL), window)
        assert list(tensors) == list(stored.places_in(MODEL))
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    empty = {"none": torch.empty(0, 3), "some": torch.ones(2)}
    save_file(empty, tmp_path / "empty.safetensors")
    assert stored.mapped_in_windows(stored.places_in(tmp_path / "empty.safetensors"))["none"].shape == (0, 3)


def no_map(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def test_every_reader_survives_a_refused_map():
    expected = load_file(MODEL)
    for tensors in (open_checkpoint(MODEL, no_map).tensors, read_weight_file(MODEL, no_map)[0]):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert open_checkpoint(MODEL, no_map).metadata == open_checkpoint(MODEL).metadata


def test_what_stays_on_the_disk_has_the_same_weights(monkeypatch, tmp_path):
    """LoRAs are merged, quantised weights unpacked, when a layer is called."""
    generator = torch.Generator().manual_seed(1)
    name = "diffusion_model.blocks.0.self_attn.q.lora_{}.weight"
    factors = {name.format(side): torch.randn(*shape, generator=generator) for side, shape in
               (("down", (4, 128)), ("up", (128, 4)))}  # fmt: skip
    save_file(factors, tmp_path / "lora.safetensors")
    loras = [(tmp_path / "lora.safetensors", 0.5)]
    expected = load_transformer(MODEL, loras, torch.float16)
    monkeypatch.setattr(transformer, "available_memory", lambda: 0)
    model = load_transformer(MODEL, loras, torch.float16)
    assert is_on_disk(model) and not is_on_disk(expected)
    layer, same = (m.get_submodule("blocks.0.self_attn.q") for m in (model, expected))
    hidden = torch.randn(3, 128, generator=generator).half()
    weight = model.get_parameter("blocks.0.self_attn.q.weight")
    assert weight.is_meta and weight.dtype == torch.float16
    assert torch.allclose(layer(hidden), same(hidden), rtol=1e-3, atol=1e-3)
    assert model.get_parameter("blocks.0.self_attn.q.weight").is_meta
    load_from_disk(model, CPU)
    assert not is_on_disk(model)
    for loaded, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(loaded, wanted) and not loaded.requires_grad


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("unable to mmap 32652340 bytes from file <a>: Cannot allocate memory (12)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        OSError("The paging file is too small for this operation to complete. (os error 1455)"),
    ],
    ids=["python", "system", "torch map", "torch", "windows"],
)
def test_a_lack_of_memory_is_not_called_a_damaged_file(error, tmp_path):
    from liveavatar_runtime.checkpoint.safetensors_io import readable

    (tmp_path / "good.safetensors").write_bytes(bytes(1000))
    with pytest.raises(MemoryShortage) as told, readable(tmp_path / "good.safetensors"):
        raise error
    text = str(told.value)
    assert "good.safetensors: not enough memory" in text and "of memory, of which" in text
    assert "fp8" in text and "the official folder" in text and "Download" not in text


def test_a_file_that_asks_for_more_than_it_can_fill_is_damaged(tmp_path):
    from liveavatar_runtime.checkpoint.safetensors_io import readable

    (tmp_path / "small.pth").write_bytes(bytes(1000))
    with pytest.raises(CheckpointError, match="Download or copy the file again"), readable(tmp_path / "small.pth"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999999999 bytes.")


WINDOWS = {5: "does not allow it", 32: "another program has it open", 3: "is gone", 59: "network share failed",
           1117: "disk or network share failed"}  # fmt: skip


def of_windows(code: int) -> OSError:
    """As Python raises it there."""
    error = OSError(errno.EINVAL, "as Windows says it")
    vars(error)["winerror"] = code
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "does not allow it"),
        (PermissionError("Permission denied (os error 13)"), "does not allow it"),
        (RuntimeError("unable to open file <a.pth> in read-only mode: Permission denied (13)"), "does not allow it"),
        (FileNotFoundError("No such file or directory: a"), "is gone"),
        (OSError(errno.EIO, "Input/output error"), "disk or network share failed"),
        (OSError(errno.ESTALE, "Stale file handle"), "is gone"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files open"),
        *((of_windows(code), told) for code, told in WINDOWS.items()),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value)[:40],
)
def test_what_the_system_refuses_is_not_called_a_damaged_file(error, told, tmp_path):
    from liveavatar_runtime.checkpoint.safetensors_io import readable

    with pytest.raises(CheckpointError) as caught, readable(tmp_path / "good.safetensors"):
        raise error
    assert str(caught.value).startswith(f"{tmp_path / 'good.safetensors'} cannot be read: ")
    assert told in str(caught.value) and "Download" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_shortage_is_no_fault_of_what_the_user_gave():
    from liveavatar_runtime.errors import InputError, MachineError

    assert issubclass(MemoryShortage, MachineError) and not issubclass(MemoryShortage, InputError)


def test_other_errors_still_are_a_damaged_file(tmp_path):
    from liveavatar_runtime.checkpoint.safetensors_io import readable

    for error in (SafetensorError("header"), ValueError("header"), RuntimeError("bad magic number"), EOFError()):
        with pytest.raises(CheckpointError, match="Download or copy the file again"), readable(tmp_path / "a.pth"):
            raise error


def test_memory_that_is_available():
    assert 0 < available_memory() <= psutil.virtual_memory().total


def test_without_maps_the_same_weights_are_read(tmp_path):
    """--disable-mmap of ComfyUI and of workers."""
    expected = load_transformer(MODEL)
    file = tmp_path / MODEL.name
    file.write_bytes(MODEL.read_bytes())
    (tmp_path / "config.json").write_bytes((MODEL.parent / "config.json").read_bytes())
    model = load_transformer(file, mapped=False)
    assert not is_on_disk(model) and str(file) not in Path("/proc/self/maps").read_text()
    for loaded, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(loaded, wanted)


def test_groups_of_this_computer_map_files_only_where_comfyui_does(tmp_path):
    from liveavatar_runtime.config import DEMO
    from liveavatar_workers.client.create import ModelFiles, local_workers
    from liveavatar_workers.rank.worker import parse

    for mapped in (True, False):
        group = local_workers("fsdp", [CPU, CPU], DEMO, ModelFiles(MODEL, mapped=mapped), "bf16")
        assert parse(group._arguments).disable_mmap is not mapped
