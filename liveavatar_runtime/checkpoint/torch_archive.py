"""PyTorch archives (.pth, .pt, .bin, .ckpt), which hold a program: read only where PyTorch keeps it from running."""

import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..reading import readable

TORCH_SUFFIXES = {".pth", ".pt", ".bin", ".ckpt"}
SAFE_SINCE = (2, 6)
"""PyTorch before it runs code that a file brings along, even with `weights_only` (CVE-2025-32434)."""
LARGEST_PROGRAM = 64 * 2**20
"""Bytes of the part of an archive that is no numbers: names and places."""


def read_archive(path: Path, mapped: bool) -> dict[str, Tensor]:
    """The tensors of an archive by name, of one that nests them in `state_dict` too.

    Raises CheckpointError for what else an archive may hold, and for any of them where PyTorch is too old to be safe.
    """
    from accelerate.utils import load

    refuse_unsafe_torch(path, torch.__version__)
    with readable(path):
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_records(path)
        # accelerate's loader is torch's, kept to arrays; only the zip format can be mapped.
        content = load(path, map_location="cpu", weights_only=True, mmap=zipped and mapped)
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
            raise CheckpointError(f"{path} holds a {type(content).__name__} that is not a table of tensors by name")
        for name, tensor in content.items():
            _check_tensor(name, tensor, path.stat().st_size)
    return dict(content)


def refuse_unsafe_torch(path: Path, version: str) -> None:
    """Raises CheckpointError when PyTorch of this version runs code out of archives."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < SAFE_SINCE:
        raise CheckpointError(
            f"{path} is a PyTorch archive, and PyTorch {version} would run any code that is hidden in one "
            "(CVE-2025-32434), so it is not opened. Use the safetensors file of the same weights, or PyTorch 2.6 or "
            "newer."
        )


def _check_records(path: Path) -> None:
    """Raises ValueError for parts that would take more memory than the file is long, as PyTorch writes none."""
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
                raise ValueError(f"its part {record.filename} is compressed, as PyTorch never does")
            if record.filename.endswith(".pkl") and record.file_size > LARGEST_PROGRAM:
                raise ValueError(f"its part {record.filename} has {record.file_size:,} bytes without any weights")


def _check_tensor(name: object, tensor: Tensor, size: int) -> None:
    """Raises ValueError for what is no plain array of numbers that a file of `size` bytes can hold."""
    if not isinstance(name, str):
        raise ValueError(f"the name {name!r} of a tensor is no text")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"{name!r} is no plain tensor ({tensor.layout}, {tensor.device}, {tensor.dtype})")
    if tensor.numel() * tensor.element_size() > size:
        raise ValueError(f"{name!r} is {list(tensor.shape)}, which are more bytes than the file has")
