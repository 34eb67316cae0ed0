"""Opening weight files: safetensors, sharded folders, PyTorch archives, GGUF; mapped, with readable refusals."""

import json
import logging
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, MemoryShortage
from .memory import gib, is_shortage, too_little
from .names import own_names, without_inner_wrappers
from .stored import FileTensors, Place, mapped_in_windows, places_in, read_header

log = logging.getLogger(__name__)

QUANTISATION_HEADER = "_quantization_metadata"
"""Header entry in which ComfyUI notes the format of each quantised layer."""

GGUF_SUFFIX = ".gguf"
TORCH_SUFFIXES = {".pth", ".pt", ".bin", ".ckpt"}
INDEX_ENDING = ".index.json"
# In the order of trust: an index names every shard, a single file is complete by itself.
FOLDER_ENTRIES = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin",
)
# First bytes of what people most often have under a .safetensors name, and what it is.
FOREIGN_STARTS = (
    (b"GGUF", "a GGUF file; rename it to .gguf"),
    (b"PK\x03\x04", "a PyTorch or zip archive; rename it to .pth if it holds weights"),
    (b"\x80", "a Python pickle; rename it to .pth if it holds weights"),
    (b"version https://git-lfs", "a git-lfs pointer; fetch the real file with `git lfs pull`"),
    (b"<", "a web page, saved instead of the file it links to"),
)
DAMAGED = (
    SafetensorError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RuntimeError,
    EOFError, MemoryError, pickle.UnpicklingError,
)  # fmt: skip
LARGEST_HEADER = 100 * 2**20
AGAIN = "Download or copy the file again and compare its size with the source."


Reader = Callable[[Path], tuple[dict[str, Tensor], dict[str, str]]]
"""Gives the tensors and the header's texts of a complete safetensors file."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights of one model: `tensors` as named by the model itself, `metadata` of the file's header (strings)."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    """Where each tensor of safetensors files is."""

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor in memory of its own, in `dtype` if it is given.

        Unlike a mapped one, it leaves nothing of the file in memory once freed.
        """
        if name not in self.places:
            return self.tensors[name].to(dtype)
        with readable(self.places[name].file):
            return self.places[name].read(dtype)

    @property
    def mapped(self) -> bool:
        """Whether the tensors are views of the file, which cost no memory and no time before they are used."""
        return isinstance(self.tensors, dict)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes as stored, without unpacking anything."""
        known = getattr(self.tensors, "shapes", None)
        return dict(known) if known is not None else {name: tuple(t.shape) for name, t in self.tensors.items()}

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Dtypes as stored; those of packed tensors (GGUF) are left out."""
        if isinstance(self.tensors, dict):
            return {name: tensor.dtype for name, tensor in self.tensors.items()}
        return dict(getattr(self.tensors, "dtypes", {}))


def open_checkpoint(path: str | Path, reader: Reader | None = None) -> Checkpoint:
    """Weights of a file or of a folder in the official layout, under the model's own names.

    Tensors are memory-mapped views on the CPU in the file's dtype: nothing is read before it is used. Where the system
    refuses all maps they are read anew at every access, and those of GGUF files are unpacked so. `reader` replaces the
    mapping of safetensors files.
    Raises CheckpointError when there is no such file, or it is truncated, of another format or unsafe.
    """
    path = Path(path)
    if path.suffix.lower() == GGUF_SUFFIX and path.is_file():
        from .gguf_io import open_gguf

        packed, metadata = open_gguf(path)
        return Checkpoint(path, packed.renamed(own_names(path, packed)), metadata)
    tensors, metadata = _opened(path, reader, lambda: FileTensors(_places(path)))
    names, places = own_names(path, tensors), _places(path)
    kept = {new: places[old] for new, old in names.items() if old in places}
    renamed = {new: tensors[old] for new, old in names.items()} if isinstance(tensors, dict) else FileTensors(kept)
    with readable(path):
        metadata = _relocated(metadata, names)
    return Checkpoint(path, renamed, metadata, kept)


def read_tensors(path: str | Path, reader: Reader | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Like `open_checkpoint`, but names stay exactly as in the file: (tensors, header metadata); no GGUF.

    Where no map is possible, all of it is read into memory.
    """
    path = Path(path)
    tensors, metadata = _opened(path, reader, lambda: {name: place.read() for name, place in _places(path).items()})
    return dict(tensors), metadata


def _opened(
    path: Path, reader: Reader | None, without_map: Callable[[], Mapping[str, Tensor]]
) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """Tensors and header texts; from smaller maps, or else `without_map`, where the system refuses to map a file."""
    path = _entry(path)
    if path.suffix.lower() in TORCH_SUFFIXES:
        return _read_torch(path), {}
    try:
        if path.name.endswith(INDEX_ENDING):
            return _read_shards(path, reader or _mapped)
        return _read_safetensors(path, reader or _mapped)
    except MemoryShortage as refused:
        log.info("%s Mapping smaller parts of it instead.", refused)
        metadata = {} if path.name.endswith(INDEX_ENDING) else header_texts(path)
    try:
        with readable(path):
            return mapped_in_windows(_places(path)), metadata
    except MemoryShortage:
        log.info("%s: no part of it can be mapped. Its tensors are read when they are needed.", path)
    with readable(path):
        return without_map(), metadata


def _relocated(header: dict[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The header for the model's own `names` (own name -> the file's)."""
    if QUANTISATION_HEADER not in header:
        return header
    content = json.loads(header[QUANTISATION_HEADER])
    prefixes = {old.removesuffix(own) for own, old in names.items() if old.endswith(own)}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    noted = content.get("layers", {}).items()
    layers = {without_inner_wrappers(name.removeprefix(prefix)): how for name, how in noted}
    return {**header, QUANTISATION_HEADER: json.dumps({**content, "layers": layers})}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises CheckpointError when it is something else."""
    with readable(path):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}; it must be an object. {AGAIN}")
    return content


def _entry(path: Path) -> Path:
    """The file to open: the path itself, or what a folder holds."""
    if path.is_dir():
        found = next((path / name for name in FOLDER_ENTRIES if (path / name).is_file()), None)
        if found is None:
            raise CheckpointError(f"{path} holds no weights; it must hold one of: {', '.join(FOLDER_ENTRIES)}")
        return found
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give a weight file or a folder that holds one")
    return path


def _safetensors_files(path: Path) -> list[Path]:
    """The safetensors files behind a path; none when it is of another format."""
    path = _entry(path)
    if path.name.endswith(INDEX_ENDING):
        return [path.parent / name for name in sorted(set(_weight_map(path).values()))]
    return [] if path.suffix.lower() in TORCH_SUFFIXES else [path]


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> name of its file beside the index."""
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{index} has no weight_map, so it does not tell which file holds which tensor. {AGAIN}")
    return where


def _read_shards(index: Path, reader: Reader) -> tuple[dict[str, Tensor], dict[str, str]]:
    where = _weight_map(index)
    names = sorted(set(where.values()))
    # A shard is a file beside its index; an absolute or climbing name would open files of somebody else's choice.
    absent = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {len(absent)} of the {len(names)} files its index names: {_first(absent)}. "
            "Finish the download of the folder."
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= _read_safetensors(index.parent / name, reader)[0]
    lost = [name for name in where if name not in tensors]
    if lost:
        raise CheckpointError(
            f"{index.parent}: {len(lost)} tensors named by {index.name} are in none of its files: {_first(lost)}. "
            "The files are of different versions; download the folder again."
        )
    return tensors, {}


def _read_safetensors(path: Path, reader: Reader) -> tuple[dict[str, Tensor], dict[str, str]]:
    _check_header(path)
    with readable(path):
        return reader(path)


def _mapped(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _places(path: Path) -> dict[str, Place]:
    """Of all tensors in the safetensors files behind a path."""
    places: dict[str, Place] = {}
    for file in _safetensors_files(path):
        _check_header(file)
        with readable(file):
            places |= places_in(file)
    return places


def header_texts(path: Path) -> dict[str, str]:
    """The texts in the header of a complete safetensors file."""
    return read_header(path)[0].get("__metadata__") or {}


def _check_header(path: Path) -> None:
    """Refuses what is not a complete safetensors file, saying what it is instead."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(32)
        for magic, what in FOREIGN_STARTS:
            if start.startswith(magic) and start[8:9] != b"{":
                raise CheckpointError(f"{path} is not a safetensors file but {what}")
        length = struct.unpack("<Q", start[:8])[0] if size > 8 else 0
        if start[8:9] != b"{" or length > LARGEST_HEADER:
            raise CheckpointError(f"{path} ({size:,} bytes) does not start as a safetensors file does. {AGAIN}")
        if size < 8 + length:
            raise CheckpointError(f"{path} is truncated: it ends after {size:,} bytes, inside its header. {AGAIN}")
        file.seek(8)
        with readable(path):
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    needed = 8 + length + max(ends, default=0)
    if size < needed:
        raise CheckpointError(f"{path} is truncated: it has {size:,} bytes, its header describes {needed:,}. {AGAIN}")


def _read_torch(path: Path) -> dict[str, Tensor]:
    # weights_only never runs code of the file; only the zip format can be mapped.
    with readable(path):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path} holds a {type(content).__name__} that is not a table of tensors by name")
    return content


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what readers raise for a damaged file into a CheckpointError, and a lack of memory into MemoryShortage."""
    try:
        yield
    except DAMAGED as error:
        if isinstance(error, CheckpointError):
            raise
        if is_shortage(error):
            raise MemoryShortage(too_little(path, f"Its {gib(_size(path))} could not be mapped or read")) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as weights: {reason}. {AGAIN}") from error


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob("*"))


def _first(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
