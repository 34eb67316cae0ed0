"""Clips and states of all videos together keep within the budget, at every moment; clips come first."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from spooled_video import HEADER_BYTES, PLAN, STATE_BYTES, Sampling, latents_of, stream_of
from torch import Tensor

from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.spool.latent_stream import LatentStream, Storage, clip_file_bytes
from liveavatar_runtime.spool.states import StateSettings
from liveavatar_runtime.spool.store import SpoolStore

KEY = "5" * 32
CLIPS = PLAN.num_clip * clip_file_bytes(PLAN) + 1000
STATE_FILE = STATE_BYTES + HEADER_BYTES
MANY = StateSettings(STATE_BYTES, 100 * STATE_BYTES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Tensor:
    return latents_of(stream_of(Sampling(), tmp_path_factory.mktemp("whole") / "spool"))


@pytest.fixture
def store(tmp_path: Path) -> SpoolStore:
    return SpoolStore(tmp_path / "spools")


def stream_in(store: SpoolStore, budget: int, sampling: Sampling, states: StateSettings = MANY) -> LatentStream:
    stream = stream_of(sampling, store.root / KEY, states=states)
    return LatentStream(PLAN, stream.history, sampling, Storage(store.open(KEY, {"seed": 1}, budget), states))


def bytes_in(root: Path) -> int:
    """Of all files, also those that are being written."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(folder, name))
    return total


@contextmanager
def most_bytes_in(root: Path) -> Iterator[list[int]]:
    """The most that was there at any moment, looked at all the time."""
    seen, done = [0], threading.Event()

    def look() -> None:
        while not done.is_set():
            # A file that is renamed between two looks at it is seen twice or not at all: look again.
            seen[0] = max(seen[0], min(bytes_in(root), bytes_in(root)))

    thread = threading.Thread(target=look)
    thread.start()
    yield seen
    done.set()
    thread.join()


@pytest.mark.parametrize("states", [0, 1, 2, 5])
def test_the_budget_is_kept_at_every_moment(store, whole, states):
    """0.5 MB was allowed once, and 2.18 MB were on the disk."""
    budget, sampling = CLIPS + states * STATE_FILE, Sampling()
    stream = stream_in(store, budget, sampling)
    with most_bytes_in(store.root) as most:
        assert torch.equal(latents_of(stream), whole)
    assert most[0] <= budget and bytes_in(store.root) <= budget
    assert sampling.blocks == list(range(PLAN.num_blocks)) and stream.finished_clips == PLAN.num_clip
    assert len(stream.spool.states()) == states
    assert [text for text in stream.news if "There is no room for states" in text] == stream.news
    assert len(stream.news) == (states == 0)


@pytest.mark.parametrize("states", [1, 3])
def test_state_budget_is_kept_at_every_moment(store, whole, states):
    settings = StateSettings(STATE_BYTES, states * STATE_FILE)
    with most_bytes_in(store.root) as most:
        assert torch.equal(latents_of(stream_in(store, 0, Sampling(), settings)), whole)
    assert most[0] <= CLIPS + states * STATE_FILE
    assert len(store.open(KEY, {}).states()) == states


def test_a_clip_without_room_ends_the_run_and_goes_on_with_more(store, whole):
    budget, sampling = 4 * clip_file_bytes(PLAN) + 100, Sampling()
    stream = stream_in(store, budget, sampling)
    told = r"spool_budget is 0\.1 MiB: 0\.1 MiB are taken by this video, and .* is kept: raise spool_budget"
    with pytest.raises(MachineError, match=told):
        latents_of(stream)
    assert stream.spool.clips() == [0, 1, 2, 3] and stream.spool.states() == []
    assert bytes_in(store.root) <= budget
    assert torch.equal(latents_of(stream_in(store, 0, sampling))[:, :24], whole[:, :24])


def test_older_videos_make_room_for_states_and_those_in_use_stay(store):
    for key in ("a", "b"):
        other = store.open(key, {})
        assert other.try_lock()
        other.write_clip(0, torch.zeros(16, 2**12))
        other.unlock()
    sizes = {info.key: info.size for info in store.spools()}
    used = store.open("a", {})
    assert used.try_lock()
    budget = CLIPS + sizes["a"] + 2 * STATE_FILE
    latents_of(stream_in(store, budget, Sampling()))
    assert {info.key for info in store.spools()} == {"a", KEY}
    assert len(store.open(KEY, {}).states()) == 2 and bytes_in(store.root) <= budget
    mine = store.open(KEY, {}, sizes["a"])
    assert mine.try_lock()
    with pytest.raises(MachineError, match=r"by this video, 0\.\d MiB by other videos that are in use, and"):
        mine.write_clip(0, torch.zeros(4))
    mine.unlock()
    used.unlock()


def test_nothing_is_removed_in_vain(store):
    other = store.open("a", {})
    assert other.try_lock()
    other.write_clip(0, torch.zeros(16, 2**12))
    other.unlock()
    assert store.make_room(KEY, 1000, 999) == [] and [info.key for info in store.spools()] == ["a"]


def test_a_state_of_a_repair_does_not_replace_the_newest(store, whole):
    settings = StateSettings(STATE_BYTES, STATE_FILE)
    latents_of(stream_in(store, 0, Sampling(), settings))
    (store.root / KEY / "clip-000001.safetensors").unlink()
    assert torch.equal(latents_of(stream_in(store, 0, Sampling(), settings)), whole)
    assert store.open(KEY, {}).states() == [16]


def test_what_states_of_a_plan_take():
    """What is kept at the end and one that is just written; large ones only at ends of segments."""
    assert StateSettings(10, 10**9).bytes_of(PLAN) == 10 * (PLAN.num_clip + 1)
    assert StateSettings(10, 45).bytes_of(PLAN) == 45 and StateSettings(10, 9).bytes_of(PLAN) == 0
    large = StateSettings(2**30, 2**40)
    assert large.bytes_of(PLAN) == 2**30
    assert large.bytes_of(replace(PLAN, segment_clips=2, segment_index=1)) == 3 * 2**30


def test_states_that_stay():
    sizes = {2: 10, 4: 10, 6: 30}
    assert StateSettings(10, 100).kept(PLAN, sizes) == {2, 4, 6}
    assert StateSettings(10, 45).kept(PLAN, sizes) == {4, 6}
    assert StateSettings(10, 20).kept(PLAN, sizes) == {6}
    assert StateSettings(10, 5).kept(PLAN, sizes) == set()
