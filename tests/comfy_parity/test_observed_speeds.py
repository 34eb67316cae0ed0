"""Records of runs in ComfyUI's user folder: whole or not there, few, and harmless when damaged."""

import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from liveavatar_runtime.planning.observed import ObservedSpeed, SpeedKey

KEY = SpeedKey(
    cards=("RTX 4090",),
    executor="local",
    width=688,
    height=368,
    steps=4,
    window_blocks=4,
    dim=5120,
    layers=40,
    weight_bytes=1.0,
    dtype="bfloat16",
    kv_cache="ram",
    kv_dtype="model",
    batched=False,
)
SPEED = ObservedSpeed(key=KEY, block_seconds=5.5, first_block_seconds=8.0, spread=0.04, blocks=39, date="2026-11-28")


@pytest.fixture
def speeds(pack: ModuleType) -> Any:
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.observed_speeds")


def test_they_are_in_the_user_folder(speeds, pack):
    import folder_paths

    assert speeds.speeds_folder().parent == Path(folder_paths.get_user_directory())


def test_what_is_recorded_is_observed(speeds, tmp_path):
    folder = tmp_path / "speeds"
    assert speeds.observed(folder).records == ()
    other = replace(SPEED, key=replace(KEY, width=384, height=256), block_seconds=1.9)
    for speed in (SPEED, other, replace(SPEED, blocks=2, block_seconds=9.0)):
        speeds.record(speed, folder)
    known = speeds.observed(folder)
    assert known.find(KEY).to_json() == SPEED.to_json() and known.find(other.key).block_seconds == 1.9
    speeds.record(replace(SPEED, blocks=12, block_seconds=4.0), folder)
    assert speeds.observed(folder).find(KEY).block_seconds == 4.0 and len(list(folder.iterdir())) == 2


def test_damaged_files_are_left_out_with_a_line(speeds, tmp_path, caplog):
    speeds.record(SPEED, tmp_path)
    for name, content in (("a.json", b"{"), ("b.json", b"\0" * 99), ("c.json", b"[" * 99_999)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d.json").mkdir()
    assert len(speeds.observed(tmp_path).records) == 1
    assert all(f"{name}.json is left out" in caplog.text for name in "abcd")
    # A damaged one of its own key is replaced.
    (mine,) = (path for path in tmp_path.iterdir() if len(path.stem) == 32)
    mine.write_bytes(b"{")
    speeds.record(SPEED, tmp_path)
    assert speeds.observed(tmp_path).find(KEY) is not None


def test_what_cannot_be_written_harms_nothing(speeds, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "file").write_bytes(b"")
    speeds.record(SPEED, tmp_path / "file")
    assert "was not kept" in caplog.text and speeds.observed(tmp_path / "file").records == ()


def test_their_number_is_bounded_and_leftovers_go(speeds, tmp_path, monkeypatch):
    monkeypatch.setattr(speeds, "MOST_RECORDS", 3)
    left = tmp_path / ".x.tmp"
    left.write_bytes(b"{")
    os.utime(left, (1, 1))
    for number in range(1, 6):
        speeds.record(replace(SPEED, key=replace(KEY, steps=number)), tmp_path)
        newest = max(tmp_path.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    assert sorted(speed.key.steps for speed in speeds.observed(tmp_path).records) == [3, 4, 5]
    assert not left.exists()


def test_two_at_once_harm_nothing(speeds, tmp_path):
    def write(number: int) -> None:
        speeds.record(replace(SPEED, block_seconds=1.0 + number), tmp_path)
        speeds.observed(tmp_path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(40)))
    assert len(list(tmp_path.iterdir())) == 1 and speeds.observed(tmp_path).find(KEY).blocks == 39
