"""Names of output files: each run gets its own, also when several begin at the same time."""

import importlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def files(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.output_files")


def test_runs_at_the_same_time_get_different_files(files, tmp_path):
    def claim(number: int) -> tuple:
        return files.output_file("videos/avatar", 64, 64, ("mp4", "webm")[number % 2])

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(claim, range(200)))
    assert len({path for path, _, _ in found}) == 200 == len(list((tmp_path / "videos").iterdir()))
    assert all(path == tmp_path / subfolder / file for path, file, subfolder in found)


def test_an_existing_file_is_never_taken(files, tmp_path):
    path, file, _ = files.output_file("avatar", 64, 64, "mp4")
    assert file == "avatar_00001_.mp4"
    path.write_bytes(b"mine")
    assert files.output_file("avatar", 64, 64, "mp4")[1] == "avatar_00002_.mp4"
    assert path.read_bytes() == b"mine"


def test_a_name_that_was_not_used_is_given_back(files, tmp_path):
    path, _, _ = files.output_file("avatar", 64, 64, "mp4")
    with pytest.raises(ZeroDivisionError):
        with files.claimed(path):
            raise ZeroDivisionError
    assert not path.exists()
    path, _, _ = files.output_file("avatar", 64, 64, "mp4")
    with files.claimed(path):
        path.write_bytes(b"video")
    assert path.read_bytes() == b"video"


def test_what_a_killed_process_was_copying_goes_and_nothing_else(files, tmp_path):
    hour_ago = time.time() - 2 * files.HOUR_SECONDS
    for name in ("avatar_00001_.mp4", "avatar_00001_.tmp", "avatar_00002_.tmp", "mine.tmp", "other_00001_.tmp"):
        (tmp_path / name).write_bytes(b"copy")
        os.utime(tmp_path / name, (hour_ago, hour_ago))
    for name in ("avatar_00003_.mp4", "avatar_00003_.tmp"):
        (tmp_path / name).write_bytes(b"being written")
    files.output_file("avatar", 64, 64, "mp4")
    left = {path.name for path in tmp_path.glob("*.tmp")}
    assert left == {"avatar_00002_.tmp", "avatar_00003_.tmp", "mine.tmp", "other_00001_.tmp"}


def test_names_that_a_killed_process_took_and_never_used_go_after_a_day(files, tmp_path):
    ages = {"avatar_00001_.mp4": 2, "avatar_00002_.mkv": 2, "avatar_00003_.mp4": 0.5, "avatar_1_.mp4": 2, "mine.mp4": 2}
    for name, days in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - days * files.DAY_SECONDS,) * 2)
    (tmp_path / "avatar_00004_.mp4").write_bytes(b"video")
    os.utime(tmp_path / "avatar_00004_.mp4", (0, 0))
    with files.claimed(tmp_path / "avatar_00002_.mkv"):
        files.output_file("avatar", 64, 64, "mp4")
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {*ages, "avatar_00004_.mp4", "avatar_00005_.mp4"} - {"avatar_00001_.mp4"}
