"""The folder of all spools: listing, clearing, the budget, the check of the disk, keys."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from spooled_video import PLAN
from tiny_avatar import random_conditions

from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.sampling.checked_files import DamagedFile, read_tensors, write_tensors
from liveavatar_runtime.sampling.fingerprint import Fingerprint, Numerics, video_key
from liveavatar_runtime.sampling.spool_store import SpoolStore
from liveavatar_runtime.sampling.states import State


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


def test_the_longest_unused_go_first_when_the_budget_is_full(store):
    sizes = {info.key: info.size for info in store.spools()}
    total = sum(sizes.values())
    assert store.make_room("c", 0, total) == []
    assert [info.key for info in store.make_room("c", 1, total)] == ["a"]
    assert [info.key for info in store.make_room("b", 10**9, 1)] == ["c"] and keys(store) == ["b"]


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
    write_tensors(path, {"latents": torch.randn(20)})
    assert path.stat().st_size > 200
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile):
        read_tensors(path)


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
    )
    keys = [key(), *map(key, others), key(conditions=changed), key(conditions=masked), key(weights="n"), key(voice="w")]
    keys += [key(numerics=replace(NUMERICS, **change)) for change in numerics]
    assert len(set(keys)) == len(keys)


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
