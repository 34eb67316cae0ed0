"""The rules that tests of files run under, and what they would not catch if they did nothing."""

import mmap
import os
import shutil
from pathlib import Path

import pytest
from files_in_use import CAN_BE_TOLD, windows_rules

pytestmark = pytest.mark.skipif(os.name != "nt" and not CAN_BE_TOLD, reason="this system does not tell what is open")


def actions(path: Path, other: Path) -> list:
    return [
        path.unlink,
        lambda: os.remove(path),
        lambda: path.rename(path.with_name("new")),
        lambda: path.replace(path.with_name("new")),
        lambda: shutil.move(path, path.with_name("new")),
        lambda: os.replace(other, path),
        lambda: shutil.rmtree(path.parent),
        lambda: path.parent.rename(path.parent.with_name("moved")),
    ]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "folder").mkdir()
    path, other = tmp_path / "folder" / "file", tmp_path / "other"
    path.write_bytes(b"content")
    other.write_bytes(b"another")
    return path, other


@pytest.mark.parametrize("number", range(8))
def test_an_open_file_stays(files, number):
    path, other = files
    with path.open("rb"), pytest.raises(PermissionError):
        actions(path, other)[number]()
    assert path.read_bytes() == b"content" and other.exists()
    actions(path, other)[number]()
    assert not path.exists() or path.read_bytes() == b"another"


@pytest.mark.parametrize("number", range(8))
def test_a_mapped_file_stays(files, number):
    path, other = files
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with pytest.raises(PermissionError):
        actions(path, other)[number]()
    assert path.read_bytes() == b"content"
    mapped.close()
    actions(path, other)[number]()


def test_a_rename_does_not_replace(files):
    path, other = files
    with pytest.raises(FileExistsError):
        path.rename(other)


def test_they_end_with_their_context():
    before = os.unlink
    with windows_rules():
        assert (os.unlink is not before) == CAN_BE_TOLD
    assert os.unlink is before
