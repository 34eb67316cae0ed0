"""Files in ComfyUI's output folder: their names, and whether those that were written are still there."""

import glob
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypedDict
from weakref import WeakKeyDictionary

import folder_paths
from comfy_api.latest import InputImpl, io, ui

from liveavatar_runtime.errors import InputError, reason_of
from liveavatar_runtime.media.file_names import LATER, check_prefix, expand

from .comfy_types import Hidden, Prompt
from .notes import Notes

_WRITTEN: "WeakKeyDictionary[object, tuple[str, Path]]" = WeakKeyDictionary()
"""VIDEO results that somebody still holds, ComfyUI's cache above all -> the node that wrote them, and the file."""
HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS
_CLAIMED: set[Path] = set()
"""Files of this process that nothing has been written to yet."""
_LOST: Counter[str] = Counter()
"""Files of a node that were gone while their VIDEO was still held."""


def remember_file(video: object, node_id: str, path: Path) -> None:
    """Notice when the file of this result (a VIDEO) is removed."""
    _WRITTEN[video] = (node_id, path)


def lost_files(node_id: str) -> int:
    """How many files of a node have been removed while ComfyUI held their results; for `fingerprint_inputs`.

    ComfyUI asks before it takes a result from its cache. A number that has grown makes the node run again, and what
    comes behind it too; nothing is sampled again for it.
    """
    for video, (writer, path) in list(_WRITTEN.items()):
        if writer == node_id and not path.is_file():
            del _WRITTEN[video]
            _LOST[node_id] += 1
    return _LOST[node_id]


class ShownClips(TypedDict):
    """Where the clips of a video are in its file, for the page (`web/take_strip.js`). first: number of the first clip
    in the file, from 1; count: how many clips begin in it; of: clips of the whole video; frames: of a clip; fps: as the
    exact rate is written; skipped: frames that the first clip has fewer; takes: those of its clips, as they are
    written; wrong: of the clips that the judge found to look wrong, by their numbers from 1, the reasons; transparent:
    whether its pictures have alpha."""

    first: int
    count: int
    of: int
    frames: int
    fps: str
    skipped: int
    takes: str
    wrong: dict[str, str]
    transparent: bool


class ShownVideo(ui.PreviewVideo):
    """A video on a node, with its path on this machine, which the page can copy (`web/player.js`), and its clips."""

    def __init__(self, values: list[ui.SavedResult], path: Path, clips: ShownClips | None = None) -> None:
        super().__init__(list(values))
        self._path, self._clips = path, clips

    def as_dict(self) -> dict[str, object]:
        clips = {"liveavatar_clips": [self._clips]} if self._clips is not None else {}
        return {**super().as_dict(), "liveavatar_paths": [str(self._path)], **clips}


class OutputFile(NamedTuple):
    """A file in the output folder: its path, its name and its subfolder there."""

    path: Path
    name: str
    subfolder: str

    def as_video(self, node_id: str) -> InputImpl.VideoFromFile:
        """As the VIDEO of the node that has written it, which runs again when the file is gone (`lost_files`)."""
        video = InputImpl.VideoFromFile(str(self.path))
        remember_file(video, node_id, self.path)
        return video

    def shown(self, clips: ShownClips | None = None) -> ui.PreviewVideo:
        """For the node."""
        return ShownVideo([ui.SavedResult(self.name, self.subfolder, io.FolderType.output)], self.path, clips)


def output_file(prefix: str, width: int, height: int, extension: str) -> OutputFile:
    """The next free file for an expanded prefix, which now exists, empty.

    Making it is what takes the number: of two runs at the same time each gets its own. Raises InputError when the
    system cannot make it.
    """
    check_output_prefix(prefix, final=True)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory(), width, height
        )
        _remove_left_files(Path(folder), name)
        while True:
            file = f"{name}_{counter:05}_.{extension}"
            path = Path(folder) / file
            with suppress(FileExistsError):
                path.touch(exist_ok=False)
                return OutputFile(path, file, subfolder)
            counter += 1
    except OSError as error:
        raise InputError(
            f"filename_prefix {prefix!r}: the file cannot be made in the output folder "
            f"{folder_paths.get_output_directory()}: {reason_of(error)}. Choose another or a shorter prefix, or "
            "check that the folder is writable and the disk has room."
        ) from error


def _remove_left_files(folder: Path, name: str) -> None:
    """Of a process that was killed: copies of a finished MP4 (`media.video`), and names taken before a first frame.

    Nobody writes to them any more. A first frame may take hours, so an empty file is left alone for a day.
    """
    for copy in folder.glob(f"{glob.escape(name)}_*_.tmp"):
        with suppress(OSError):
            if copy.with_suffix(".mp4").exists() and time.time() - copy.stat().st_mtime > HOUR_SECONDS:
                copy.unlink()
    for path in folder.glob(f"{glob.escape(name)}_[0-9][0-9][0-9][0-9][0-9]_.*"):
        with suppress(OSError):
            stat = path.stat()
            if not stat.st_size and path not in _CLAIMED and time.time() - stat.st_mtime > DAY_SECONDS:
                path.unlink()


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Removes a file of `output_file` if nothing has been written to it at the end."""
    _CLAIMED.add(path)
    with ExitStack() as stack:
        stack.callback(_remove_empty, path)
        stack.callback(_CLAIMED.discard, path)
        yield


def _remove_empty(path: Path) -> None:
    # What the work itself raised says more.
    with suppress(OSError):
        if not path.stat().st_size:
            path.unlink()


def check_output_prefix(prefix: str, final: bool = False) -> None:
    """Raises InputError when the prefix names no file that every system can have, or leaves the output folder.

    What is between percent signs may stand there still, unless the prefix is `final`.
    """
    expanded, _ = expand(prefix, datetime.now())
    check_prefix(expanded, final)
    output = Path(folder_paths.get_output_directory()).resolve()
    if output not in (output / expanded).resolve().parents:
        raise InputError(
            f"filename_prefix {prefix!r} leaves the output folder {output}; use a relative prefix without '..'"
        )


def expanded_prefix(prefix: str, prompt: Prompt | None, notes: Notes) -> str:
    """The prefix with dates and the widgets of this prompt in place of its patterns, as ComfyUI's page replaces them.

    The page has done so already; prompts that come from elsewhere have not. The notes say what nobody knows. Raises
    InputError as `check_output_prefix`.
    """
    expanded, unknown = expand(prefix, datetime.now(), widget_texts(prompt or {}))
    if unknown:
        known = ", ".join(f"%{name}%" for name in sorted(LATER))
        notes.warn(
            f"filename_prefix: {', '.join(unknown)} stands in the file name as it is, because no node has such a "
            f"widget. Known are %date%, %date:yyyy-MM-dd%, %Node name.widget% and {known}."
        )
    check_output_prefix(expanded, final=True)
    return expanded


def widget_texts(prompt: Prompt) -> dict[str, str]:
    """{"name.widget": value} of all nodes of a prompt, by class and by title; the first node of a name counts."""
    texts: dict[str, str] = {}
    titled = [(node.get("_meta", {}).get("title"), node) for node in prompt.values()]
    for name, node in [*((node["class_type"], node) for node in prompt.values()), *titled]:
        for widget, value in node["inputs"].items():
            if name and isinstance(value, (str, int, float)):
                texts.setdefault(f"{name}.{widget}", widget_text(value))
    return texts


def widget_text(value: str | float) -> str:
    """A widget's value as the page writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def metadata_of(hidden: Hidden) -> dict[str, str]:
    """The prompt and workflow of a run, as ComfyUI stores them in files; nothing with --disable-metadata."""
    from comfy.cli_args import args

    if args.disable_metadata:
        return {}
    values = {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt}
    return {name: json.dumps(value) for name, value in values.items() if value is not None}
