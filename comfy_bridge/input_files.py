"""Files in ComfyUI's input folder by the names that its Load nodes have, and what they hold, before a run."""

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.reading import readable, regular_file

if TYPE_CHECKING:
    from liveavatar_runtime.media.sound_length import SoundLength

INPUT_MARK = "[input]"
ROTATED = (5, 6, 7, 8)
"""Values of a picture's orientation with which its sides are exchanged when it is shown."""
ORIENTATION = 0x0112
KNOWN = 64
"""Files that are remembered."""


def input_file(name: str) -> Path:
    """A file that Load Image or Load Audio would take, of the input folder only.

    Raises InputError for a name that leads elsewhere, and for a file that is not there.
    """
    return regular_file(input_path(name))


def input_path(name: str) -> Path:
    """Where a file of this name is, or is to be. Raises InputError for a name that leads elsewhere."""
    root = Path(folder_paths.get_input_directory()).absolute()
    plain = name.removesuffix(INPUT_MARK).rstrip(" ") if name.endswith(INPUT_MARK) else name
    if not plain or "\0" in plain:
        raise InputError("no file is named; give the name of one in ComfyUI's input folder")
    # Links in the folder are the user's own, and Load nodes follow them; ".." and absolute names are not.
    path = Path(os.path.normpath(root / plain))
    if root not in path.parents:
        raise InputError(f"{name!r} is not in ComfyUI's input folder")
    return path


def voice_length(name: str) -> "SoundLength":
    """Of the sound in an input file. Raises InputError when there is none."""
    path = input_file(name)
    return _voice_length(path, *_stamp(path))


def picture_size(name: str) -> tuple[int, int]:
    """(width, height) of the picture in an input file, as it is shown. Raises InputError when it is none."""
    path = input_file(name)
    return _picture_size(path, *_stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(KNOWN)
def _voice_length(path: Path, size: int, changed: int) -> "SoundLength":
    from liveavatar_runtime.media.sound_length import sound_length

    return sound_length(path)


@lru_cache(KNOWN)
def _picture_size(path: Path, size: int, changed: int) -> tuple[int, int]:
    from PIL import Image

    with readable(path, "a picture"), Image.open(path) as picture:
        width, height = picture.size
        return (height, width) if picture.getexif().get(ORIENTATION) in ROTATED else (width, height)
