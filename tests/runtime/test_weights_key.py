"""The key of weights: every number counts, and nothing but the numbers; files are read once."""

import os
import random
import shutil
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from test_gguf import demo_file
from tiny_avatar import CONFIG
from worker_group import save_model

from liveavatar_runtime.checkpoint import content
from liveavatar_runtime.checkpoint.content import CHUNK_BYTES, InFile, InMemory, broken_numbers, contents
from liveavatar_runtime.checkpoint.known_hashes import MOST_ENTRIES, Hashed, KnownHashes
from liveavatar_runtime.checkpoint.weights_key import vae_key, weights_key
from liveavatar_runtime.errors import CheckpointError
from liveavatar_workers.client.create import ModelFiles, local_workers
from liveavatar_workers.rank.worker import parse

WEIGHT = "blocks.0.ffn.0.weight"
FILE = "diffusion_pytorch_model.safetensors"
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def model(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model")) / FILE


def age(file: Path, seconds: float = 60) -> None:
    """As if it was last changed some time ago."""
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(file, ns=(then, then))


class Readings:
    """Counts how often files are read."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, done: int, total: int) -> None:
        self.count += done == total


@pytest.mark.parametrize("seed", range(12))
def test_one_changed_bit_anywhere_changes_the_key(model, seed) -> None:
    key, stored = weights_key(model, []), bytearray(model.read_bytes())
    start = 8 + int.from_bytes(stored[:8], "little")
    place = random.Random(seed).randrange(start, len(stored))
    # The lowest bit of a number: no value becomes infinite of it.
    place -= (place - start) % 4
    stored[place] ^= 1
    model.write_bytes(stored)
    assert weights_key(model, []) != key


@pytest.mark.parametrize("first", [0, 32, 200, 1000, 1985])
def test_a_run_of_nan_is_refused_and_the_repaired_file_has_the_first_key(model, first) -> None:
    """63 of them once fell between the numbers that were looked at."""
    key, weights = weights_key(model, []), load_file(model)
    broken = weights[WEIGHT].clone()
    broken.view(-1)[first : first + 63] = float("nan")
    save_file({**weights, WEIGHT: broken}, model)
    with pytest.raises(CheckpointError, match=rf"not numbers .* in {WEIGHT} \(63 of {broken.numel():,}\); .*again"):
        weights_key(model, [])
    save_file(weights, model)
    assert weights_key(model, []) == key


def test_a_lora_counts_with_all_its_numbers(model) -> None:
    size = load_file(model)["blocks.0.self_attn.q.weight"].shape[0]
    lora = model.parent / "lora.safetensors"
    parts = {"a": torch.randn(2, size), "b": torch.randn(size, 2)}

    def key(names: tuple[str, str], place: int | None = None, value: float = 0.5) -> str:
        changed = {name: part.clone() for name, part in parts.items()}
        if place is not None:
            changed["b"].view(-1)[place] = value
        module = "blocks.0.self_attn.q"
        save_file({f"{module}.{names[0]}.weight": changed["a"], f"{module}.{names[1]}.weight": changed["b"]}, lora)
        return weights_key(model, [(lora, 1.0)])

    peft, kohya = ("lora_A", "lora_B"), ("lora_down", "lora_up")
    assert key(peft) == key(kohya)
    assert len({key(peft), *(key(peft, place) for place in range(0, 2 * size, 9))}) == 1 + len(range(0, 2 * size, 9))
    with pytest.raises(
        CheckpointError, match=r"the LoRA .*lora.safetensors holds .*not numbers.*up of blocks\.0\.self"
    ):
        key(peft, 3, float("inf"))


def test_packed_weights_count_with_all_their_bytes(tmp_path) -> None:
    file = demo_file(tmp_path / "model.gguf", GGMLQuantizationType.Q8_0)
    keys, stored = {weights_key(file, [])}, bytearray(file.read_bytes())
    for place in range(len(stored) - 1, len(stored) // 2, -len(stored) // 20):
        stored[place] ^= 1
        file.write_bytes(stored)
        keys.add(weights_key(file, []))
    assert len(keys) == 11


def test_a_vae_counts_with_all_its_numbers() -> None:
    weights = {"conv": torch.randn(1000), "bias": torch.randn(3)}
    keys = set()
    for place in range(0, 1000, 7):
        changed = weights["conv"].clone()
        changed[place] += 1
        keys.add(vae_key({**weights, "conv": changed}, torch.float32))
    assert len(keys | {vae_key(weights, torch.float32)}) == 144


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_found_everywhere(dtype, value) -> None:
    values = torch.randn(40_000).to(dtype)
    assert broken_numbers(values) == 0
    if dtype == torch.float8_e4m3fn and abs(value) == float("inf"):
        value = float("nan")  # This format has no infinity.
    broken = torch.tensor(value).to(dtype)
    for place in (0, 1, 32_767, 32_768, 39_999):
        one = values.clone()
        one[place] = broken
        assert broken_numbers(one) == 1
    largest = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min]).to(dtype)
    assert broken_numbers(largest) == 0


@pytest.mark.parametrize("count", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5])
def test_a_tensor_has_one_hash_in_memory_and_in_a_file(tmp_path, count) -> None:
    values = torch.arange(count, dtype=torch.int64).to(torch.uint8)
    file = tmp_path / "bytes"
    file.write_bytes(b"before" + values.numpy().tobytes() + b"after")
    stored = InFile(file, 6, count, (count,), str(torch.uint8), torch.uint8)
    steps: list[tuple[int, int]] = []
    found = contents({"one": InMemory(values), "two": stored}, lambda *step: steps.append(step))
    assert found["one"] == found["two"] and found["one"].count == count
    assert [done for done, _ in steps] == sorted({done for done, _ in steps}) and all(n == 2 * count for _, n in steps)
    assert not steps or steps[-1][0] == 2 * count


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(content, "THREADS", 2)
    file, pieces = tmp_path / "large", 40
    with file.open("wb") as large:
        large.truncate(pieces * CHUNK_BYTES)
    alive, most = 0, 0

    def counted(size: int) -> torch.Tensor:
        nonlocal alive, most
        alive += size
        most = max(most, alive)
        stored = np.empty(size, dtype=np.uint8)
        weakref.finalize(stored, freed, size)
        return torch.from_numpy(stored)

    def freed(size: int) -> None:
        nonlocal alive
        alive -= size

    monkeypatch.setattr(content, "empty_piece", counted)
    size = pieces * CHUNK_BYTES
    contents({"large": InFile(file, 0, size, (size,), "x", None)})
    assert 0 < most <= 7 * CHUNK_BYTES


def test_a_copy_has_the_same_key_and_a_known_file_is_not_read(model, tmp_path) -> None:
    known, readings = KnownHashes(tmp_path / "known"), Readings()
    age(model)
    key = weights_key(model, [], known, readings)
    assert weights_key(model, [], KnownHashes(tmp_path / "known"), readings) == key and readings.count == 1
    copy = tmp_path / "elsewhere" / "other-name.safetensors"
    copy.parent.mkdir()
    shutil.copy2(model, copy)
    assert weights_key(copy, [], known, readings) == key and readings.count == 2
    age(model, 120)
    assert weights_key(model, [], known, readings) == key and readings.count == 3
    link = tmp_path / "link.safetensors"
    try:
        link.symlink_to(model)
    except OSError:
        return  # Windows without the privilege.
    assert weights_key(link, [], known, readings) == key and readings.count == 3


def test_an_edit_of_the_same_size_and_time_is_read(model, tmp_path) -> None:
    known = KnownHashes(tmp_path / "known")
    age(model)
    stat, key = model.stat(), weights_key(model, [], known)
    stored = bytearray(model.read_bytes())
    stored[-4] ^= 1
    model.write_bytes(stored)
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if os.name != "nt":  # There no time tells, and such an edit is beyond what can be noticed.
        assert weights_key(model, [], known) != key
    age(model, 30)
    assert weights_key(model, [], known) != key


def test_what_was_just_written_is_not_remembered(model, tmp_path) -> None:
    """It could be changed once more without another time."""
    known, readings = KnownHashes(tmp_path / "known"), Readings()
    for count in (1, 2):
        age(model, 0)
        weights_key(model, [], known, readings)
        assert readings.count == count
    age(model, -3600)
    weights_key(model, [], known, readings)
    weights_key(model, [], known, readings)
    assert readings.count == 4, "a time that is still to come says nothing"


def test_a_file_that_changes_while_it_is_read_is_not_remembered(model, tmp_path) -> None:
    known = KnownHashes(tmp_path / "known")
    age(model)
    known.of("it", [model], lambda: (age(model, 10), Hashed("half old, half new"))[1])
    age(model)
    assert known.of("it", [model], lambda: Hashed("whole")).digest == "whole"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(b"aaaa", b"aaab", 1),
        lambda text: b"[" * 60_000,
        lambda text: b"\xff\xfe" + text,
        lambda text: b"null",
        lambda text: b'{"check": "", "result": 5}',
        lambda text: text + b"x",
    ],
)
def test_a_damaged_entry_counts_as_none(model, tmp_path, damage) -> None:
    folder = tmp_path / "known"
    age(model)
    right = Hashed("a" * 64, (("weight", 1, 2),), 1)
    assert KnownHashes(folder).of("it", [model], lambda: right) == right
    (entry,) = folder.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert KnownHashes(folder).of("it", [model], lambda: Hashed("anew")) == Hashed("anew")
    assert KnownHashes(folder).of("it", [model], lambda: right) == Hashed("anew"), "the entry was written again"


def test_a_place_that_cannot_be_written_is_no_error(model, tmp_path) -> None:
    age(model)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert KnownHashes(folder).of("it", [model], lambda: Hashed("a")) == Hashed("a")


def test_entries_are_bounded_and_leave_nothing_half_written(model, tmp_path) -> None:
    folder = tmp_path / "known"
    folder.mkdir()
    age(model)
    for number in range(MOST_ENTRIES + 20):
        (folder / f"{number}.json").write_text("another model's")
        age(folder / f"{number}.json", 1000 - number)
    for seconds in (10, 10_000):
        (folder / f".{seconds}.tmp").write_text("being written, or left by a crash")
        age(folder / f".{seconds}.tmp", seconds)
    known = KnownHashes(folder)
    known.of("new", [model], lambda: Hashed("a"))
    assert len(list(folder.iterdir())) == MOST_ENTRIES
    assert [path.name for path in folder.glob(".*.tmp")] == [".10.tmp"]
    assert known.of("new", [model], lambda: Hashed("b")) == Hashed("a")


def test_a_group_of_workers_remembers_where_comfyui_does(tmp_path) -> None:
    group = local_workers(
        "fsdp", [torch.device("cpu")] * 2, CONFIG, ModelFiles(tmp_path, hashes=tmp_path / "known"), "auto"
    )
    assert parse(group._arguments).hashes == (tmp_path / "known").resolve()
    assert parse(["--model", "m"]).hashes is None


def test_an_interruption_ends_the_reading(model, tmp_path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise InterruptedError

    age(model)
    with pytest.raises(InterruptedError):
        weights_key(model, [], KnownHashes(tmp_path / "known"), interrupt)
    assert not (tmp_path / "known").exists()
