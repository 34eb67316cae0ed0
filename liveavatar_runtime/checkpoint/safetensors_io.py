"""Opening weight files: safetensors, sharded folders, PyTorch archives, GGUF; mapped, with readable refusals."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError, MemoryShortage, handled
from ..reading import AGAIN, first_file, parse_json, read_json, readable, regular_file
from ..texts import first_names
from .header import read_header
from .names import own_names, without_inner_wrappers
from .stored import FileTensors, Place, mapped_in_windows, places_in
from .torch_archive import TORCH_SUFFIXES, read_archive

log = logging.getLogger(__name__)

QUANTISATION_HEADER = "_quantization_metadata"
"""Header entry in which ComfyUI notes the format of each quantised layer."""

GGUF_SUFFIX = ".gguf"
INDEX_ENDING = ".index.json"
# In the order of trust: an index names every shard, a single file is complete by itself.
FOLDER_ENTRIES = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin",
)


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

    @property
    def files(self) -> list[Path]:
        """The files that hold the tensors."""
        return sorted({place.file for place in self.places.values()}) or [_entry(self.path)]

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


def open_checkpoint(path: str | Path, reader: Reader | None = None, *, mapped: bool = True) -> Checkpoint:
    """Weights of a file or of a folder in the official layout, under the model's own names.

    Tensors are memory-mapped views on the CPU in the file's dtype: nothing is read before it is used. Where the system
    refuses all maps, and without `mapped`, they are read anew at every access, and those of GGUF files are unpacked so.
    `reader` replaces the mapping of safetensors files.
    Raises CheckpointError when there is no such file, or it is truncated, of another format or unsafe.
    """
    path = Path(path)
    with readable(path):
        if path.suffix.lower() == GGUF_SUFFIX and not path.is_dir():
            from .gguf_io import open_gguf

            packed, metadata = open_gguf(path)
            return Checkpoint(path, packed.renamed(own_names(path, packed)), metadata)
        tensors, metadata = _opened(path, reader, mapped, lambda: FileTensors(_places(path)))
        names, places = own_names(path, tensors), _places(path)
        kept = {new: places[old] for new, old in names.items() if old in places}
        renamed = {new: tensors[old] for new, old in names.items()} if isinstance(tensors, dict) else FileTensors(kept)
        return Checkpoint(path, renamed, _relocated(metadata, names), kept)


def read_weight_file(
    path: str | Path, reader: Reader | None = None, *, mapped: bool = True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Like `open_checkpoint`, but names stay exactly as in the file: (tensors, header metadata); no GGUF.

    Where no map is possible, and without `mapped`, all of it is read into memory and the file is not needed any more.
    """
    path = Path(path)
    with readable(path):
        tensors, metadata = _opened(path, reader, mapped, lambda: _all_read(_places(path)))
        return dict(tensors), metadata


def _opened(
    path: Path, reader: Reader | None, mapped: bool, without_map: Callable[[], Mapping[str, Tensor]]
) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """Tensors and header texts; from smaller maps, or else `without_map`, where the system refuses to map a file."""
    path = _entry(path)
    if path.suffix.lower() in TORCH_SUFFIXES:
        return read_archive(path, mapped), {}
    indexed = path.name.endswith(INDEX_ENDING)
    metadata = {} if indexed else read_header(path).texts
    if not mapped and reader is None:
        return without_map(), metadata
    with handled(MemoryShortage, partial(log.info, "%s Mapping smaller parts of it instead.")):
        return _read_shards(path, reader or _mapped) if indexed else _read_safetensors(path, reader or _mapped)
    no_part = "%s: no part of it can be mapped. Its tensors are read when they are needed."
    with handled(MemoryShortage, lambda refused: log.info(no_part, path)):
        if mapped:
            with readable(path):
                return mapped_in_windows(_places(path)), metadata
    return without_map(), metadata


def _relocated(header: dict[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The header for the model's own `names` (own name -> the file's)."""
    if QUANTISATION_HEADER not in header:
        return header
    content = parse_json(header[QUANTISATION_HEADER])
    prefixes = {old.removesuffix(own) for own, old in names.items() if old.endswith(own)}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    noted = content.get("layers", {}).items()
    layers = {without_inner_wrappers(name.removeprefix(prefix)): how for name, how in noted}
    return {**header, QUANTISATION_HEADER: json.dumps({**content, "layers": layers})}


def _entry(path: Path) -> Path:
    """The file to open: the path itself, or what a folder holds."""
    if path.is_dir():
        found = first_file(path, FOLDER_ENTRIES)
        if found is None:
            raise CheckpointError(f"{path} holds no weights; put one of these there: {', '.join(FOLDER_ENTRIES)}")
        return found
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a weight file or a folder that holds one")
    return regular_file(path)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> name of its file beside the index."""
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise CheckpointError(f"{index} has no weight_map, so it does not tell which file holds which tensor. {AGAIN}")
    return where


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all there."""
    names = sorted(set(_weight_map(index).values()))
    # A shard is a file beside its index; an absolute or climbing name would open files of somebody else's choice.
    absent = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {len(absent)} of the {len(names)} files its index names: {first_names(absent)}. "
            "Finish the download of the folder."
        )
    return [index.parent / name for name in names]


def _check_found(index: Path, found: Mapping[str, object]) -> None:
    """Raises CheckpointError when tensors that the index names are in none of its files."""
    lost = [name for name in _weight_map(index) if name not in found]
    if lost:
        raise CheckpointError(
            f"{index.parent}: {len(lost)} tensors named by {index.name} are in none of its files: {first_names(lost)}. "
            "The files are of different versions; download the folder again."
        )


def _read_shards(index: Path, reader: Reader) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    for file in _shards(index):
        tensors |= _read_safetensors(file, reader)[0]
    _check_found(index, tensors)
    return tensors, {}


def _read_safetensors(path: Path, reader: Reader) -> tuple[dict[str, Tensor], dict[str, str]]:
    read_header(path)
    with readable(path):
        return reader(path)


def _mapped(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _all_read(places: Mapping[str, Place]) -> dict[str, Tensor]:
    return {name: place.read() for name, place in places.items()}


def _places(path: Path) -> dict[str, Place]:
    """Of all tensors in the safetensors files behind a path; none of those in other formats."""
    path = _entry(path)
    if path.suffix.lower() in TORCH_SUFFIXES:
        return {}
    if not path.name.endswith(INDEX_ENDING):
        return places_in(path)
    places: dict[str, Place] = {}
    for file in _shards(path):
        places |= places_in(file)
    _check_found(path, places)
    return places
