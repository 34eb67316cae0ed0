"""What a model in workers computes with, as a short content hash, cheap also for 30 GB of weights."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..checkpoint.safetensors_io import read_tensors
from ..sampling.fingerprint import Fingerprint

SAMPLES = 256
"""Numbers of each tensor that are looked at, spread over all of it; training changes nearly every weight."""


def weights_key(path: Path, loras: Sequence[tuple[Path, float]], dtype: str) -> str:
    """Over the files' weights, the LoRAs' with their strengths, and the number format of the computation."""
    fingerprint = Fingerprint().add("dtype", dtype)
    for file, strength in ((path, 1.0), *loras):
        tensors = read_tensors(file)[0]
        fingerprint.add("strength", strength)
        for name in sorted(tensors):
            fingerprint.add(name, [str(tensors[name].dtype), list(tensors[name].shape)])
            fingerprint.add(name, _sampled(tensors[name]))
    return fingerprint.hexdigest()


def _sampled(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLES)].clone()
