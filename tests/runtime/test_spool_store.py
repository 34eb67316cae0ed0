"""The folder of all spools: listing, clearing, the budget, the check of the disk, keys."""

import json
import multiprocessing
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from other_processes import come_and_go
from spooled_video import PLAN
from tiny_avatar import random_conditions

from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.fingerprint import Fingerprint
from liveavatar_runtime.sampling.video_key import Numerics, video_key
from liveavatar_runtime.spool.about import read_about
from liveavatar_runtime.spool.checked_files import DamagedFile, read_tensors, write_tensors
from liveavatar_runtime.spool.states import State
from liveavatar_runtime.spool.store import SpoolStore


@pytest.fixture
def store(tmp_path: Path) -> SpoolStore:
    """Spools a, b, c with 2, 1 and 0 clips; a was used a day ago, b an hour ago, c now."""
    store = SpoolStore(tmp_path / "spools")
    for key, clips, age in (("a", 2, 86400), ("b", 1, 3600), ("c", 0, 0)):
        spool = store.open(key, {"size": "64x64"})
        assert spool.try_lock()
        for clip in range(clips):
            spool.write_clip(clip, torch.zeros(16, 6, 8, 8))
        spool.unlock()
        used = time.time() - age
        os.utime(store.root / key / "spool.json", (used, used))
    return store


def keys(store: SpoolStore) -> list[str]:
    return [info.key for info in store.spools()]


def test_listing(store, tmp_path):
    assert keys(store) == ["c", "b", "a"] and [info.clips for info in store.spools()] == [0, 1, 2]
    assert str(store.spools()[1]).startswith("b: 1 clips, 0.0 MiB, used 60 minutes ago; size 64x64")
    assert SpoolStore(tmp_path / "none").spools() == [] and not (tmp_path / "none").exists()


def test_clearing_leaves_what_is_in_use(store):
    held = store.open("a", {})
    assert held.try_lock()
    assert [info.key for info in store.clear(older_than=1800)] == ["b"]
    assert [info.key for info in store.clear()] == ["c"] and keys(store) == ["a"]
    held.unlock()
    assert [info.key for info in store.clear()] == ["a"] and keys(store) == []


@pytest.mark.skipif(os.name == "nt", reason="no limit that can be set")
def test_what_the_system_does_not_let_go_is_told(store):
    import resource

    before, told = resource.getrlimit(resource.RLIMIT_NOFILE), []
    with open(os.devnull) as file:
        free = file.fileno()
    # Enough for the lock of a spool, but not for a look into its folder as well.
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))
    try:
        assert store.clear(refused=told.append) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(told) == 3 and sorted(keys(store)) == ["a", "b", "c"]
    assert told[0] == (
        f"{store.root / 'c'} could not be removed: Too many open files. Allow ComfyUI more open files (ulimit -n), or "
        "restart it, then run again."
    )
    assert len(store.clear(refused=told.append)) == 3 and len(told) == 3


def test_the_longest_unused_go_first_when_the_budget_is_full(store):
    sizes = {info.key: info.size for info in store.spools()}
    total = sum(sizes.values())
    assert store.make_room("c", 0, total) == []
    assert [info.key for info in store.make_room("c", 1, total)] == ["a"]
    assert [info.key for info in store.make_room("b", 0, sizes["b"])] == ["c"] and keys(store) == ["b"]


def test_a_disk_without_room_is_refused_before_work(store):
    store.check_disk(1)
    with pytest.raises(MachineError, match=r"need 1048576\.00 GiB in .*spools.*Finished Clips"):
        store.check_disk(2**50)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="cannot be used"):
        SpoolStore(tmp_path / "file").open("a", {}).try_lock()


def test_a_spool_tells_what_it_is(store):
    assert json.loads((store.root / "a" / "spool.json").read_text()) == {"size": "64x64"}


BROKEN = {
    "half written": b'{"size": "64x',
    "nothing": b"",
    "bad UTF-8": b'{"size": "\xff\xfe"}',
    "a list": b"[1, 2]",
    "a number": b"7",
    "wrong types": b'{"size": {"a": [1]}}',
    "marks": json.dumps({"size": "64\n\x1b[2J\u202e"}).encode(),
    "deep": b"[" * 60_000,
    "long": json.dumps({"size": "6" * 200}).encode(),
    "huge": b'{"size": "' + b"6" * 2**20 + b'"}',
}


@pytest.mark.parametrize("content", [*BROKEN.values(), None, "link", "folder", "pipe"])
def test_a_damaged_folder_blocks_nobody_and_can_be_cleared(store, content):
    about = store.root / "a" / "spool.json"
    about.unlink()
    if isinstance(content, bytes):
        about.write_bytes(content)
    elif content == "link":
        about.symlink_to("nowhere")
    elif content == "folder":
        about.mkdir()
    elif content == "pipe":
        os.mkfifo(about)
    assert sorted(keys(store)) == ["a", "b", "c"]
    listed = [str(info) for info in store.spools()]
    assert any(line.startswith("a: 2 clips") and line.endswith("; what it is: unknown") for line in listed)
    assert "".join(listed).count("unknown") == 1 and all(line.isprintable() for line in listed)
    assert [info.key for info in store.make_room("c", 0, 2**8)] and keys(store) == ["c"]


@pytest.mark.parametrize("content", [*BROKEN.values(), None, "link"])
def test_the_next_prompt_says_again_what_it_is(store, content):
    about = store.root / "a" / "spool.json"
    about.unlink()
    if isinstance(content, bytes):
        about.write_bytes(content)
    elif content:
        about.symlink_to("nowhere")
    spool = store.open("a", {"size": "64x64"})
    assert spool.try_lock() and read_about(spool.folder) == {"size": "64x64"} and not about.is_symlink()
    spool.unlock()
    assert sorted(path.name for path in store.root.iterdir()) == ["a", "b", "c"]


def test_what_is_not_ours_is_left_alone(store):
    (store.root / "notes.txt").write_text("mine")
    (store.root / "mine").mkdir()
    (store.root / "mine" / "file").touch()
    (store.root / "link").symlink_to("nowhere")
    (store.root / "b" / "notes.txt").write_text("in a spool")
    (store.root / "b" / "folder").mkdir()
    assert sorted(keys(store)) == ["a", "b", "c"] and len(store.clear()) == 3
    assert sorted(os.listdir(store.root)) == ["link", "mine", "notes.txt"]


def test_a_folder_that_may_not_be_read_is_listed(tmp_path):
    """As another user where the tests run as root, who may read everything."""
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        root.chmod(0o755)
        for key in ("a" * 32, "b" * 32):
            (root / key).mkdir()
            (root / key / "spool.json").write_text("{}")
        (root / ("a" * 32)).chmod(0)
        process = multiprocessing.get_context("fork").Process(target=list_as_nobody, args=(root,))
        process.start()
        process.join()
        assert process.exitcode == 0
    finally:
        (root / ("a" * 32)).chmod(0o755)
        shutil.rmtree(root)


def list_as_nobody(root: Path) -> None:
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    infos = {info.key[0]: info for info in SpoolStore(root).spools()}
    assert infos["a"].about is None and infos["b"].about == {}
    assert "used at an unknown time; what it is: unknown" in str(infos["a"])
    assert SpoolStore(root).clear() == [] or os.geteuid() != 65534


def test_listing_while_a_second_server_makes_and_removes_spools(store):
    process = multiprocessing.get_context("spawn").Process(target=come_and_go, args=(str(store.root),))
    process.start()
    seen, listings = set(), 0
    while process.is_alive() and (listings < 300 or len(seen) < 13):
        seen.update(info.key for info in store.spools())
        # Counted from when there is somebody else.
        listings += len(seen) > 3
    (store.root / "stop").touch()
    process.join()
    assert process.exitcode == 0 and listings >= 300 and len(seen) >= 13
    assert not list(store.root.glob("*.lock"))


def test_a_clock_that_was_set_back(store):
    for key, ahead in (("a", 400 * 86400), ("b", 3600)):
        used = time.time() + ahead
        os.utime(store.root / key / "spool.json", (used, used))
    assert keys(store) == ["b", "c", "a"], "a was used before the clock was set back; b perhaps by another server"
    assert "a: 2 clips, 0.0 MiB, used before the clock was set back" in str(store.spools()[-1])
    assert store.clear(older_than=1) == []
    assert [info.key for info in store.make_room("c", 0, sum(info.size for info in store.spools()) - 1)] == ["a"]
    assert [info.key for info in store.clear()] == ["b", "c"]


def test_no_lock_files_stay(store):
    assert not list(store.root.glob("*.lock"))
    # Of a version that left them, and of a process that was killed.
    (store.root / "gone.lock").touch()
    (store.root / "a.lock").touch()
    used = store.open("b", {})
    assert used.try_lock()
    store.make_room("c", 0, 2**40)
    assert [path.name for path in store.root.glob("*.lock")] == ["b.lock"]
    used.unlock()
    store.clear()
    assert os.listdir(store.root) == []


def test_states_with_and_without_unfinished_clips(store):
    spool = store.open("a", {})
    assert spool.try_lock()
    rings = {
        "step.0.layer.0.keys": torch.randn(3, 2, 4).to(torch.bfloat16),
        "x": torch.randn(5).to(torch.float8_e4m3fn),
    }
    spool.write_state(State(4, rings))
    spool.write_state(State(5, rings, torch.ones(16, 3, 8, 8)))
    for block, latents in ((4, None), (5, torch.ones(16, 3, 8, 8))):
        state = spool.read_state(block)
        assert state is not None and state.nbytes == 3 * 2 * 4 * 2 + 5
        for name, tensor in rings.items():
            assert torch.equal(state.rings[name].view(torch.uint8), tensor.view(torch.uint8))
        assert (state.latents is None) == (latents is None)
    assert spool.states() == [4, 5] and spool.read_state(6) is None


@pytest.mark.parametrize("at", [3, 12, 60, 200, -1])
def test_every_flipped_bit_of_a_file_is_found(tmp_path, at):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"latents": torch.randn(20)}, {})
    assert path.stat().st_size > 200
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile):
        read_tensors(path, {})


NUMERICS = Numerics(weights="bfloat16", computes="bfloat16")


def key(plan=PLAN, conditions=None, weights="m", voice="v", numerics=NUMERICS) -> str:
    return video_key(weights, numerics, conditions or random_conditions(), voice, plan)


def test_keys_differ_for_what_changes_latents():
    conditions = random_conditions()
    others = [
        *(replace(PLAN, **change) for change in ({"seed": 1}, {"steps": 3}, {"shift": 2.0}, {"infer_frames": 12})),
        *(replace(PLAN, **change) for change in ({"width": 128}, {"fps": 25}, {"relative_distance": 17})),
        *(replace(PLAN, sink_policy="reanchor", reanchor_clips=k) for k in (1, 2)),
    ]
    changed = replace(conditions, reference=conditions.reference + 1e-6)
    masked = replace(conditions, actor_masks=torch.ones(1, 3, 4, 4))
    numerics: tuple[dict[str, Any], ...] = (
        {"weights": "float32"},
        {"computes": "float32"},
        {"attention": "sage"},
        {"kv_dtype": "fp8"},
        {"patches": ("a",)},
        {"compiled": True},
    )
    keys = [key(), *map(key, others), key(conditions=changed), key(conditions=masked), key(weights="n"), key(voice="w")]
    keys += [key(numerics=replace(NUMERICS, **change)) for change in numerics]
    assert len(set(keys)) == len(keys)


def test_without_compile_a_key_is_that_of_versions_that_did_not_know_it():
    fields = ("weights", "computes", "attention", "kv_dtype", "patches")
    assert tuple(NUMERICS.in_key()) == fields
    assert tuple(replace(NUMERICS, compiled=True).in_key()) == (*fields, "compiled")


def test_keys_are_equal_for_more_clips_and_for_segments():
    same = [{"num_clip": 30}, {"segment_clips": 2, "segment_index": 1}, {"reanchor_clips": 3}, {"keep_aspect": True}]
    assert {key(replace(PLAN, **change)) for change in same} == {key()}


def test_a_fingerprint_is_of_content_type_and_shape():
    def of(value) -> str:
        return Fingerprint().add("x", value).hexdigest()

    tensor = torch.arange(6.0)
    assert of(tensor) == of(tensor.clone()) == of(torch.arange(12.0)[:6]) == of(torch.arange(6.0).expand(1, 6)[0])
    values = [tensor, tensor[:5], tensor.reshape(2, 3), tensor.half(), tensor.to(torch.bfloat16), tensor.int(), None, 1]
    assert len({of(value) for value in values}) == len(values)


@pytest.mark.not_on_windows
def test_what_stands_in_place_of_the_folder_is_named(tmp_path):
    """A link to a disk that is not connected, and a file, where the folder of all spools must be."""
    root = tmp_path / "spools"
    root.symlink_to("gone")
    with pytest.raises(MachineError, match=f"{root} is a link to gone, which is not there: bring it back or remove"):
        SpoolStore(root).open("a", {}).try_lock()
    root.unlink()
    root.write_text("")
    for use in (SpoolStore(root).spools, SpoolStore(root).open("a", {}).try_lock):
        with pytest.raises(MachineError, match=f"{root} is a file where a folder must be: move it away"):
            use()
