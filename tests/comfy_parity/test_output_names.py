"""Names of output files: each run gets its own, also when several begin at the same time."""

import importlib
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def files(pack, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return importlib.import_module(f"{pack.__name__}.nodes.output_files")


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
