"""What a spool refuses to give or to keep: files that are something else, failing disks, values that are no numbers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from spooled_video import PLAN, STATE_BYTES, Sampling, latents_of, stream_of
from torch import Tensor

from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.sampling.block_run import BlockRun
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import KeepRings, LatentBlock, RunStart
from liveavatar_runtime.spool.checked_files import DamagedFile, NotFinite, check_finite, read_tensors, write_tensors
from liveavatar_runtime.spool.resume import clip_shape
from liveavatar_runtime.spool.spool import Spool
from liveavatar_runtime.spool.states import StateSettings

BLOCKS = list(range(PLAN.num_blocks))
SHAPE = clip_shape(PLAN)
EXACT = StateSettings(STATE_BYTES, 10 * STATE_BYTES)
IN_FP8 = StateSettings(STATE_BYTES, 10 * STATE_BYTES, fp8=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The spool of the whole video."""
    folder = tmp_path_factory.mktemp("made") / "spool"
    latents_of(stream_of(Sampling(), folder))
    return folder


@pytest.fixture(scope="module")
def whole(made) -> Tensor:
    return latents_of(stream_of(Sampling(), made))


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    """A copy of that spool, under the same key."""
    return Path(shutil.copytree(made, tmp_path / made.name))


def clip_file(folder: Path, clip: int) -> Path:
    return folder / f"clip-{clip:06}.safetensors"


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def swap(folder: Path) -> None:
    clip_file(folder, 3).rename(folder / "aside")
    clip_file(folder, 5).rename(clip_file(folder, 3))
    (folder / "aside").rename(clip_file(folder, 5))


def copy_within(folder: Path) -> None:
    shutil.copyfile(clip_file(folder, 2), clip_file(folder, 3))


def of_another_video(folder: Path) -> None:
    other = Spool(folder.with_name("other"))
    assert other.try_lock()
    other.write_clip(3, torch.zeros(SHAPE))
    other.unlock()
    shutil.copyfile(clip_file(other.folder, 3), clip_file(folder, 3))


def of_another_shape(folder: Path) -> None:
    spool = Spool(folder)
    assert spool.try_lock()
    spool.write_clip(3, torch.zeros(16, 3, 8, 8))
    spool.unlock()


def a_state_as_a_clip(folder: Path) -> None:
    shutil.copyfile(next(folder.glob("state-*")), clip_file(folder, 3))


def a_folder(folder: Path) -> None:
    clip_file(folder, 3).unlink()
    clip_file(folder, 3).mkdir()
    (clip_file(folder, 3) / "file").touch()


def a_pipe(folder: Path) -> None:
    clip_file(folder, 3).unlink()
    os.mkfifo(clip_file(folder, 3))


def a_link_to_nothing(folder: Path) -> None:
    clip_file(folder, 3).unlink()
    clip_file(folder, 3).symlink_to("nowhere")


def bad_header(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        clip_file(folder, 3).write_bytes(len(content).to_bytes(8, "little") + content)

    return write


HEADERS = {
    "nothing": b"",
    "no JSON": b"{{{{",
    "a list": b"[]",
    "no checksum": b"{}",
    "deep": b"[" * 50_000,
    "unknown type": b'{"__metadata__":{"sha256":"0"},"latents":{"dtype":"I3","shape":[1]}}',
    "huge": b'{"__metadata__":{"sha256":"0"},"latents":{"dtype":"F32","shape":[4000000000,4000000000]}}',
    "negative": b'{"__metadata__":{"sha256":"0"},"latents":{"dtype":"F32","shape":[-4,-1]}}',
    "words": b'{"__metadata__":{"sha256":"0"},"latents":{"dtype":"F32","shape":["a"]}}',
}
DAMAGES = [swap, copy_within, of_another_video, of_another_shape, a_state_as_a_clip, a_folder, a_link_to_nothing]
DAMAGES += [a_pipe] if hasattr(os, "mkfifo") else []
NAMES = [damage.__name__ for damage in DAMAGES] + list(HEADERS)


@pytest.mark.parametrize("damage", [*DAMAGES, *map(bad_header, HEADERS.values())], ids=NAMES)
def test_a_file_that_is_something_else_is_made_again_once(folder, whole, damage):
    damage(folder)
    sampling, said = Sampling(), []
    assert torch.equal(latents_of(stream_of(sampling, folder, say=said.append)), whole)
    wrong = [3, 5] if damage is swap else [3]
    assert sampling.blocks == [block for block in BLOCKS if block // 2 in wrong]
    if damage is not a_link_to_nothing:
        assert [text for text in said if "damaged" in text] == [
            f"Clip {clip + 1} was damaged on the disk and is made again" for clip in wrong
        ]
    again = Sampling()
    assert torch.equal(latents_of(stream_of(again, folder)), whole) and not again.blocks


def test_a_damaged_clip_that_sinks_are_made_of_is_made_again_alone(folder, whole):
    flip_bit(clip_file(folder, 0))
    clip_file(folder, 6).unlink()
    sampling = Sampling()
    stream = stream_of(sampling, folder)
    blocks = torch.cat([stream._block(block).latents for block in (12, 13)], dim=1)
    stream.close()
    assert torch.equal(blocks, whole[:, 36:42]) and sampling.blocks == [0, 1, 12, 13]


def test_a_state_is_taken_for_no_other_one(folder, whole):
    """Neither of another block, nor of another video, nor one in fp8 for an exact one."""
    states = {block: folder / f"state-{block:07}.safetensors" for block in (8, 10, 12)}
    fp8 = folder / "state-0000012-fp8.safetensors"
    shutil.copyfile(states[12], fp8)
    states[8].replace(states[10])
    spool = Spool(folder)
    assert spool.try_lock()
    assert spool.read_state(12) is not None and spool.read_state(10) is None
    states[12].unlink()
    assert spool.is_fp8(12) and spool.read_state(12) is None and not fp8.exists()
    spool.unlock()
    assert torch.equal(latents_of(stream_of(Sampling(), folder)), whole)


def test_a_disk_that_never_keeps_what_is_written_ends_the_run(folder, whole):
    stream = stream_of(Sampling(), folder)
    for _ in range(2):
        flip_bit(clip_file(folder, 3))
        blocks = iter(stream)
        if stream.news:
            with pytest.raises(MachineError, match=r"clip 4 was made again, .*cannot be read as it was written now"):
                list(blocks)
        else:
            assert torch.equal(torch.cat([block.latents for block in blocks], dim=1), whole)
    # It was not in vain for ever.
    assert torch.equal(latents_of(stream), whole)


def test_a_clip_that_is_good_again_may_be_damaged_again(folder, whole):
    stream = stream_of(Sampling(), folder)
    for _ in range(3):
        flip_bit(clip_file(folder, 3))
        assert torch.equal(latents_of(stream), whole) and torch.equal(latents_of(stream), whole)


class BrokenRun(Iterator[LatentBlock]):
    """A real run, of which the rings or the latents are no numbers from one block on."""

    def __init__(self, run: BlockRun, from_block: int, bad: float) -> None:
        self._run, self._from_block, self._bad = run, from_block, bad
        self.close, self._block = run.close, 0

    def __next__(self) -> LatentBlock:
        block = next(self._run)
        self._block = block.index
        return replace(block, rings=self._spoil(block.rings))

    def rings(self) -> dict[str, Tensor] | None:
        return self._spoil(self._run.rings())

    def _spoil(self, rings: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        if rings is None or self._block < self._from_block:
            return rings
        name, ring = next(iter(rings.items()))
        spoilt = ring.clone()
        spoilt[-1, -1, -1] = self._bad
        return {**rings, name: spoilt}


def broken_sampling(from_block: int, bad: float, **options) -> Callable[..., BrokenRun]:
    def start(plan: ClipPlan, at: RunStart, keep_rings: KeepRings) -> BrokenRun:
        return BrokenRun(Sampling(**options)(plan, at, keep_rings), from_block, bad)

    return start


@pytest.mark.parametrize("states", [EXACT, IN_FP8], ids=["exact", "fp8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_state_that_is_no_numbers_is_not_kept(tmp_path, whole, states, bad):
    stream = stream_of(broken_sampling(5, bad), tmp_path / "spool", states=states)
    with pytest.raises(MachineError, match="not numbers .* in clip 3; nothing of this clip is kept"):
        latents_of(stream)
    assert stream.spool.states() == [2, 4] and stream.spool.clips() == [0, 1]
    assert not list(stream.spool.folder.glob(".*"))
    if not states.fp8:
        assert torch.equal(latents_of(stream_of(Sampling(), tmp_path / "spool")), whole)


def test_a_state_of_an_interruption_that_is_no_numbers_is_told_and_not_kept(tmp_path):
    start = broken_sampling(4, float("nan"), stop_at=(5, 1))
    stream = stream_of(start, tmp_path / "spool", states=EXACT)
    with pytest.raises(InterruptedError):
        latents_of(stream)
    assert stream.spool.states() == [2, 4]
    assert "The state of sampling is not kept: The model gave values that are not numbers" in stream.news[-1]


FINITE = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", FINITE)
@pytest.mark.parametrize("at", [0, 2**20, -1])
def test_every_value_is_looked_at(tmp_path, dtype, at):
    values = torch.ones(2**20 + 5, dtype=torch.float32)
    check_finite([values.to(dtype), torch.empty(0, dtype=dtype), torch.tensor(1.0, dtype=dtype)])
    for bad in [float("nan")] if dtype == torch.float8_e4m3fn else [float("nan"), float("inf"), float("-inf")]:
        values[at] = bad
        broken = values.to(dtype)
        # Bits of fp8 are kept as uint8.
        for tensor in [broken, broken.view(torch.uint8)] if dtype == torch.float8_e4m3fn else [broken]:
            with pytest.raises(NotFinite):
                write_tensors(tmp_path / "file", {"good": torch.ones(2), "x": tensor}, {})
    assert not list(tmp_path.iterdir())


def test_a_file_is_a_safetensors_file_and_read_only_as_what_it_is(tmp_path):
    from safetensors.torch import load_file

    path, what = tmp_path / "file", {"video": "a", "kind": "clip", "number": 3}
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7, 2).to(torch.bfloat16)[:, :1],
        "bits": torch.tensor(3, dtype=torch.uint8),
        "none": torch.empty(0, dtype=torch.float16),
    }
    write_tensors(path, tensors, what)
    for read in (load_file(path), read_tensors(path, dict(reversed(what.items())))):
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    for change in ({"video": "b"}, {"kind": "state"}, {"number": 2}, {"more": 1}):
        with pytest.raises(DamagedFile):
            read_tensors(path, {**what, **change})


REPLAY = """
import errno, os, sys
from pathlib import Path
import torch
from spooled_video import Sampling, latents_of, stream_of

def refuse(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.utime", "os.link", "os.symlink"}:
        raise OSError(errno.EROFS, "Read-only file system", str(arguments[0]))

sampling = Sampling()
if sys.argv[2] == "refuse":
    sys.addaudithook(refuse)
stream = stream_of(sampling, Path(sys.argv[1]))
assert latents_of(stream).shape[1] == 48 and not sampling.blocks and not stream.news, (sampling.blocks, stream.news)
"""


def test_a_finished_video_plays_where_nothing_can_be_written(tmp_path, made):
    """On a disk that is mounted read-only; for users who may not mount, where every call that writes is refused."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = not subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True).returncode
    try:
        folder = Path(shutil.copytree(made, disk / made.name))
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        how = "mounted" if mounted else "refuse"
        paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
        command = [sys.executable, "-c", REPLAY, str(folder), how]
        result = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
        assert not result.returncode, result.stderr
        if mounted:
            check_told_on_a_read_only_disk(folder)
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


def check_told_on_a_read_only_disk(folder: Path) -> None:
    """What must be made there after all, and what is damaged there, is told."""
    longer = replace(PLAN, num_clip=PLAN.num_clip + 1)
    with pytest.raises(
        MachineError, match="cannot be used: Read-only file system. Allow ComfyUI to read and write there"
    ):
        latents_of(stream_of(Sampling(), folder, longer))
    with pytest.raises(
        MachineError, match="cannot be used: Read-only file system. Allow ComfyUI to read and write there"
    ):
        Spool(folder).read_clip(0, (1, 2))
