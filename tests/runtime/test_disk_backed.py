"""Voice features of long tracks lie in a file, not in memory."""

import gc
import os
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from liveavatar_runtime.audio import disk_backed, windows
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.windows import LongTrack
from liveavatar_runtime.errors import MachineError


def mapped(folder: Path) -> bool:
    """Whether this process maps a file of the folder, which has no name any more."""
    return f" {folder}/" in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_small_ones_stay_in_memory(tmp_path):
    assert torch.equal(disk_backed.zeros((2, 3), torch.float16, tmp_path), torch.zeros(2, 3, dtype=torch.float16))
    assert not mapped(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_ones_are_a_file_that_ends_with_them(tmp_path, dtype):
    tensor = disk_backed.zeros((3, 1000, 7), dtype, tmp_path / "new", in_memory=1000)
    assert tensor.shape == (3, 1000, 7) and tensor.dtype == dtype and not tensor.any()
    tensor[1, 500] = 2
    view = tensor[1, 500:]
    assert mapped(tmp_path / "new") and not list((tmp_path / "new").iterdir())
    del tensor
    gc.collect()
    assert mapped(tmp_path / "new") and view[0].eq(2).all()
    del view
    gc.collect()
    assert not mapped(tmp_path / "new")


def test_it_ends_with_the_voice_that_uses_it(tmp_path):
    """Under Windows' rule too, where a mapped file could not be removed (pytest -p windows_rules)."""
    features = disk_backed.zeros((1, 3, 1000, 7), torch.float32, tmp_path, in_memory=1000)
    audio = AvatarAudio(features, torch.zeros(1, 320000), 16000)
    assert audio.aligned(0, 4, Fraction(16)).shape[-1] == 4 and audio.fingerprint
    del features
    gc.collect()
    assert mapped(tmp_path) and not list(tmp_path.iterdir())
    del audio
    gc.collect()
    assert not mapped(tmp_path)


def test_without_the_systems_reservation_every_byte_is_written(tmp_path, monkeypatch):
    """As on Windows and macOS."""
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(disk_backed, "CHUNK_BYTES", 1000)
    tensor = disk_backed.zeros((3, 1000, 7), torch.float32, tmp_path, in_memory=1000)
    tensor[-1, -1, -1] = 3
    assert float(tensor.sum()) == 3 and mapped(tmp_path)


def test_a_disk_without_room_says_so(tmp_path):
    with pytest.raises(MachineError, match=r"need 4194304\.0 GiB in "):
        disk_backed.zeros((2**50,), torch.float32, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reservation", [True, False])
def test_room_for_parts_is_taken_when_they_are_written(tmp_path, monkeypatch, reservation):
    if not reservation:
        # As on macOS.
        monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(disk_backed, "CHUNK_BYTES", 1000)
    taken: list[tuple[int, int]] = []
    kept = disk_backed._Handle.reserve
    monkeypatch.setattr(
        disk_backed._Handle, "reserve", lambda self, *place: (taken.append(place), kept(self, *place))[1]
    )
    tensor, reserve = disk_backed.zeros_in_parts(3, 1000, 7, torch.float32, tmp_path, in_memory=1000)
    assert tensor.shape == (3, 1000, 7) and not taken and not list(tmp_path.iterdir())
    reserve(100, 300)
    assert taken == [(4 * 7 * (1000 * row + 100), 4 * 7 * 200) for row in range(3)]
    assert not tensor.any()
    tensor[:, 100:300] = 1
    assert tensor.sum() == 3 * 200 * 7 and mapped(tmp_path)
    del tensor, reserve
    gc.collect()
    assert not mapped(tmp_path)


def test_on_windows_all_room_is_taken_at_once(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.delattr(os, "pwrite")
    tensor, reserve = disk_backed.zeros_in_parts(3, 1000, 7, torch.float32, tmp_path, in_memory=1000)
    reserve(0, 10)
    assert mapped(tmp_path) and tensor.shape == (3, 1000, 7)


def test_parts_without_room_are_told_before_they_are_written(tmp_path, monkeypatch):
    _, reserve = disk_backed.zeros_in_parts(3, 1000, 7, torch.float32, tmp_path, in_memory=1000)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_backed._Handle, "reserve", full)
    with pytest.raises(MachineError, match="the features of this voice need .*Make room there"):
        reserve(0, 10)


def test_long_tracks_are_encoded_into_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_backed.zeros_in_parts, "__defaults__", (None, 1000))
    waveform = torch.randn(1, 16000 * 8, generator=torch.Generator().manual_seed(0))

    def encode(samples: torch.Tensor, rate: int) -> torch.Tensor:
        return samples[:, 200::320].unsqueeze(-1).expand(1, -1, 4)[:, : (samples.shape[-1] - 400) // 320 + 1]

    whole = windows.encode_in_windows(
        encode, waveform, 16000, LongTrack(window_seconds=4, context_seconds=1, folder=tmp_path)
    )
    assert mapped(tmp_path) and torch.equal(whole, encode(waveform, 16000))
    audio = AvatarAudio(whole[None], waveform, 16000)
    in_memory = AvatarAudio(whole[None].clone(), waveform, 16000)
    assert audio.fingerprint == in_memory.fingerprint
    assert torch.equal(audio.aligned(3, 20, Fraction(16)), in_memory.aligned(3, 20, Fraction(16)))
