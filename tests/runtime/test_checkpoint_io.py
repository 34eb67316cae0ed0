"""Opening weight files: mapped, sharded, prefixed, and every damaged kind with a message that says what it is."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint, read_weight_file
from liveavatar_runtime.checkpoint.torch_archive import refuse_unsafe_torch
from liveavatar_runtime.errors import CheckpointError

ROOT = Path(__file__).parents[2]
PACK = ("liveavatar_runtime", "comfy_bridge", "nodes")
TENSORS = {"a.weight": torch.arange(600.0).reshape(20, 30), "b.bias": torch.ones(7, dtype=torch.bfloat16)}


def same(ours: Mapping[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in expected)


def test_safetensors_keeps_dtypes_and_metadata(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"config": "{}"})
    checkpoint = open_checkpoint(path)
    assert same(checkpoint.tensors, TENSORS)
    assert checkpoint.tensors["b.bias"].dtype == torch.bfloat16
    assert checkpoint.metadata == {"config": "{}"}
    assert checkpoint.shapes == {"a.weight": (20, 30), "b.bias": (7,)}


def test_weights_are_mapped_not_read(tmp_path):
    """A file far bigger than what is touched: opening it leaves its pages on the disk."""
    path = tmp_path / "big.safetensors"
    save_file({"big": torch.zeros(64 * 2**20, dtype=torch.uint8), "small": torch.ones(4)}, path)
    before = resident_bytes()
    tensors = open_checkpoint(path).tensors
    assert torch.equal(tensors["small"], torch.ones(4))
    assert resident_bytes() - before < 16 * 2**20
    assert tensors["big"].sum() == 0


def resident_bytes() -> int:
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("Rss:"))


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
def test_comfyui_prefix_is_removed_and_other_models_in_the_file_left_out(tmp_path, prefix):
    path = tmp_path / "checkpoint.safetensors"
    save_file({**{prefix + name: tensor for name, tensor in TENSORS.items()}, "vae.conv1.weight": torch.ones(1)}, path)
    assert same(open_checkpoint(path).tensors, TENSORS)
    assert "vae.conv1.weight" in read_weight_file(path)[0]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [True, False])
def test_torch_archives(tmp_path, zipped, nested):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": TENSORS} if nested else TENSORS, path, _use_new_zipfile_serialization=zipped)
    assert same(open_checkpoint(path).tensors, TENSORS)


class Malicious:
    def __reduce__(self):
        return print, ("code of the file was run",)


def test_code_in_an_archive_is_refused_and_not_run(tmp_path, capsys):
    path = tmp_path / "model.pth"
    torch.save({"a": Malicious()}, path)
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        open_checkpoint(path)
    assert "code of the file" not in capsys.readouterr().out


def make_shards(folder) -> dict[str, str]:
    names = {"a.weight": "diffusion_pytorch_model-00001-of-00002.safetensors"}
    names["b.bias"] = "diffusion_pytorch_model-00002-of-00002.safetensors"
    for tensor, file in names.items():
        save_file({tensor: TENSORS[tensor]}, folder / file)
    write_index(folder, names)
    return names


def write_index(folder, weight_map) -> None:
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def test_sharded_folder(tmp_path):
    make_shards(tmp_path)
    assert same(open_checkpoint(tmp_path).tensors, TENSORS)


def test_missing_shard_is_named(tmp_path):
    names = make_shards(tmp_path)
    (tmp_path / names["b.bias"]).unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of the 2 files.*{names['b.bias']}"):
        open_checkpoint(tmp_path)


def test_tensor_in_no_shard_is_named(tmp_path):
    write_index(tmp_path, {**make_shards(tmp_path), "c.weight": "diffusion_pytorch_model-00002-of-00002.safetensors"})
    with pytest.raises(CheckpointError, match="1 tensors named by .* are in none of its files: c.weight"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd"])
def test_index_cannot_name_files_elsewhere(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(TENSORS, tmp_path / "outside.safetensors")
    write_index(folder, {"a.weight": name})
    with pytest.raises(CheckpointError, match="lacks 1 of the 1 files"):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {}}'])
def test_damaged_index(tmp_path, content):
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_checkpoint(tmp_path)


def test_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights; put one of these there"):
        open_checkpoint(tmp_path)


def test_absent_file(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 8, 60, -1, -2000])
def test_truncated_at_any_place(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "Download or copy the file again" in message
    assert ("is truncated" in message) == (kept not in (0, 5, 8))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00", "a GGUF file"),
        (b"PK\x03\x04 and so on, and so on", "rename it to .pth"),
        (b"\x80\x02}q\x00(X\x01\x00\x00\x00aq", "a Python pickle"),
        (bytes(100), "does not start as a safetensors file does"),
        (b"\xff" * 100, "does not start as a safetensors file does"),
        (b"\x09\x00\x00\x00\x00\x00\x00\x00{notjson}", "cannot be read as weights"),
        (b'\x0f\x00\x00\x00\x00\x00\x00\x00{"a":{"dtype":1}}'[:23], "cannot be read as weights"),
    ],
    ids=["html", "lfs", "gguf", "zip", "pickle", "zeros", "ones", "no-json", "no-offsets"],
)
def test_other_formats_are_told_apart(tmp_path, content, what):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=what):
        open_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04damaged"])
def test_damaged_archives(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        open_checkpoint(path)


def test_archive_of_something_else(tmp_path):
    path = tmp_path / "model.pth"
    torch.save([1, 2, 3], path)
    with pytest.raises(CheckpointError, match="holds a list that is not a table of tensors"):
        open_checkpoint(path)


@pytest.mark.parametrize("version", ["2.4.1", "2.5.1+cu121", "1.13.0", "unknown"])
def test_archives_are_refused_where_pytorch_runs_their_code(version, tmp_path, monkeypatch):
    """CVE-2025-32434: `weights_only` keeps nothing from running before PyTorch 2.6."""
    path = tmp_path / "model.pth"
    torch.save(TENSORS, path)
    monkeypatch.setattr(torch, "__version__", version)
    for read in (open_checkpoint, read_weight_file):
        with pytest.raises(CheckpointError, match=r"model\.pth .*CVE-2025-32434.*safetensors.*PyTorch 2\.6"):
            read(path)


@pytest.mark.parametrize("version", ["2.6.0", "2.6.0+cu124", "2.14.1", "3.0.0a0"])
def test_archives_are_read_where_pytorch_is_safe(version, tmp_path):
    refuse_unsafe_torch(tmp_path / "model.pth", version)


def test_archives_are_opened_in_one_place_only():
    """Everything else would pass by the refusal above."""
    texts = {path.name: path.read_text() for folder in PACK for path in (ROOT / folder).rglob("*.py")}
    assert not [name for name, text in texts.items() if "torch.load(" in text]
    assert [name for name, text in texts.items() if "accelerate.utils import load" in text] == ["torch_archive.py"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".gguf"])
def test_what_is_no_file_is_not_opened(tmp_path, suffix):
    """Reading a pipe would never end."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    path = tmp_path / f"model{suffix}"
    os.mkfifo(path)
    for read in (open_checkpoint, read_weight_file):
        with pytest.raises(CheckpointError, match="is a pipe or a device, not a file"):
            read(path)


def test_without_maps_a_file_is_free_after_it_was_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"config": "{}"})
    tensors, metadata = read_weight_file(path, mapped=False)
    checkpoint = open_checkpoint(path, mapped=False)
    assert same(tensors, TENSORS) and same(checkpoint.tensors, TENSORS)
    assert metadata == checkpoint.metadata == {"config": "{}"} and not checkpoint.mapped
    assert str(path) not in maps()
    mapped = read_weight_file(path)[0]
    assert same(mapped, TENSORS) and str(path) in maps()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_archives_without_maps(tmp_path, zipped):
    path = tmp_path / "model.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    tensors, _ = read_weight_file(path, mapped=False)
    assert same(tensors, TENSORS) and str(path) not in maps()


def maps() -> str:
    return Path("/proc/self/maps").read_text(encoding="utf-8")


def test_shards_without_maps(tmp_path):
    names = make_shards(tmp_path)
    assert same(open_checkpoint(tmp_path, mapped=False).tensors, TENSORS)
    (tmp_path / names["b.bias"]).unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of the 2 files"):
        open_checkpoint(tmp_path, mapped=False)
