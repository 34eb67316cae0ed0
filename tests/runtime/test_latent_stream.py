"""LatentStream on a real small model: replay, resume, segments, damage, full disks, two at once."""

import gc
import resource
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from spooled_video import PLAN, STATE_BYTES, Sampling, latents_of, settings, stream_of
from torch import Tensor

from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.sampling.block_run import BlockRun
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import KeepRings, LatentBlock, RunStart
from liveavatar_runtime.spool.latent_stream import LatentStream, clip_bytes
from liveavatar_runtime.spool.spool import Spool
from liveavatar_runtime.spool.states import StateSettings

BLOCKS = list(range(PLAN.num_blocks))
NO_STATES = StateSettings(STATE_BYTES, 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Tensor:
    """Latents of an uninterrupted run."""
    sampling = Sampling()
    latents = latents_of(stream_of(sampling, tmp_path_factory.mktemp("whole") / "spool"))
    assert sampling.blocks == BLOCKS and sampling.first_blocks == [0]
    return latents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


def test_nothing_is_sampled_before_the_first_block_is_asked_for(folder):
    sampling = Sampling()
    stream = stream_of(sampling, folder)
    assert len(stream) == PLAN.num_blocks and not sampling.starts and not folder.exists()
    assert next(iter(stream)).index == 0 and sampling.blocks == [0]


def test_a_second_iteration_replays_and_so_does_another_stream(folder, whole):
    sampling = Sampling()
    stream = stream_of(sampling, folder)
    assert torch.equal(latents_of(stream), whole) and torch.equal(latents_of(stream), whole)
    assert torch.equal(latents_of(stream_of(sampling, folder)), whole)
    assert sampling.blocks == BLOCKS and stream.finished_clips == PLAN.num_clip


def test_two_iterations_at_once_share_the_sampling(folder, whole):
    sampling = Sampling()
    stream = stream_of(sampling, folder)
    pairs = list(zip(stream, stream, strict=True))
    assert all(torch.equal(a.latents, b.latents) for a, b in pairs)
    assert torch.equal(torch.cat([a.latents for a, _ in pairs], dim=1), whole) and sampling.blocks == BLOCKS


@pytest.mark.parametrize("stop_at", [(0, 0), (0, 1), (1, 0), (2, 0), (5, 1), (6, 0), (15, 1)])
def test_an_interruption_continues_exactly(folder, whole, stop_at):
    sampling = Sampling(stop_at=stop_at)
    with pytest.raises(InterruptedError):
        latents_of(stream_of(sampling, folder))
    stream = stream_of(sampling, folder)
    assert torch.equal(latents_of(stream), whole) and not stream.news
    assert sampling.blocks == BLOCKS and sampling.first_blocks == [0, stop_at[0]]


@pytest.mark.parametrize("broken", [0, 5, 6])
def test_values_that_are_no_numbers_are_told_and_never_kept(folder, whole, broken):
    def start(plan: ClipPlan, at: RunStart, keep_rings: KeepRings) -> BrokenRun:
        return BrokenRun(Sampling()(plan, at, keep_rings), broken)

    stream = stream_of(start, folder)
    with pytest.raises(MachineError, match=f"not numbers .* in clip {broken // 2 + 1}; nothing of this clip is kept"):
        latents_of(stream)
    assert stream.finished_clips == broken // 2
    assert max(stream.spool.states(), default=0) <= broken
    assert torch.equal(latents_of(stream_of(Sampling(), folder)), whole)


class BrokenRun(Iterator[LatentBlock]):
    """A real run, of which one block overflows."""

    def __init__(self, run: BlockRun, broken: int) -> None:
        self._run, self._broken = run, broken
        self.rings, self.close = run.rings, run.close

    def __next__(self) -> LatentBlock:
        block = next(self._run)
        return block if block.index != self._broken else replace(block, latents=block.latents * float("inf"))


def test_an_interruption_keeps_a_state_that_is_too_large_for_every_clip(folder, whole):
    big = StateSettings(2**27, 2**28)
    sampling = Sampling(stop_at=(11, 1))
    with pytest.raises(InterruptedError):
        latents_of(stream_of(sampling, folder, states=big))
    assert Spool(folder).states() == [11]
    assert torch.equal(latents_of(stream_of(sampling, folder, states=big)), whole)
    assert sampling.blocks == BLOCKS


def test_without_a_state_it_warms_up_and_says_so(folder, whole):
    sampling, said = Sampling(stop_at=(12, 1)), []
    with pytest.raises(InterruptedError):
        latents_of(stream_of(sampling, folder, states=NO_STATES))
    latents = latents_of(stream_of(sampling, folder, states=NO_STATES, say=said.append))
    assert sampling.first_blocks == [0, 12] and "6 of 8 clips are finished" in said[0] and "warm-up" in said[0]
    assert torch.equal(latents[:, :36], whole[:, :36]) and not torch.equal(latents, whole)
    (folder / "clip-000007.safetensors").unlink()
    again = latents_of(stream_of(Sampling(), folder, states=NO_STATES))
    assert torch.equal(again, latents), "a clip after a warm-up is made again as it was"


def test_a_warm_up_that_reaches_the_start_is_exact(folder, whole):
    sampling = Sampling(stop_at=(5, 1))
    with pytest.raises(InterruptedError):
        latents_of(stream_of(sampling, folder, states=NO_STATES))
    assert torch.equal(latents_of(stream_of(sampling, folder, states=NO_STATES)), whole)
    assert Spool(folder).inexact_starts() == []


@pytest.mark.parametrize("clip", [0, 3, 7])
def test_a_flipped_bit_is_found_and_only_that_clip_is_made_again(folder, whole, clip):
    latents_of(stream_of(Sampling(), folder))
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("clip-*")}
    damaged = folder / f"clip-{clip:06}.safetensors"
    flip_bit(damaged)
    sampling, said = Sampling(), []
    assert torch.equal(latents_of(stream_of(sampling, folder, say=said.append)), whole)
    assert f"Clip {clip + 1} was damaged" in said[0] and sampling.blocks == BLOCKS[2 * clip : 2 * clip + 2]
    assert {path for path in kept if path.stat().st_mtime_ns != kept[path]} == {damaged}


@pytest.mark.parametrize("clip", [1, 6])
def test_a_damaged_clip_without_states_is_made_on_the_way_from_the_beginning_or_warmed_up(folder, whole, clip):
    latents_of(stream_of(Sampling(), folder, states=NO_STATES))
    flip_bit(folder / f"clip-{clip:06}.safetensors")
    sampling, said = Sampling(), []
    latents = latents_of(stream_of(sampling, folder, states=NO_STATES, say=said.append))
    if clip == 1:
        assert torch.equal(latents, whole) and sampling.blocks == BLOCKS[:4]
    else:
        assert sampling.first_blocks == [12] and sampling.blocks[-4:] == BLOCKS[-4:] and "warm-up" in said[1]


def test_damaged_and_half_written_states_do_no_harm(folder, whole):
    sampling = Sampling(stop_at=(9, 1))
    with pytest.raises(InterruptedError):
        latents_of(stream_of(sampling, folder))
    flip_bit(folder / "state-0000009.safetensors")
    (folder / ".clip-000005.safetensors.tmp").write_bytes(b"half")
    (folder / "clip-000003.safetensors").write_bytes((folder / "clip-000003.safetensors").read_bytes()[:1000])
    assert torch.equal(latents_of(stream_of(Sampling(), folder)), whole)
    assert not list(folder.glob(".*"))


def test_states_are_kept_as_far_as_the_budget_reaches(folder, tmp_path):
    latents_of(stream_of(Sampling(), folder))
    assert Spool(folder).states() == BLOCKS[2::2] + [16]
    latents_of(stream_of(Sampling(), tmp_path / "small", states=settings(2)))
    assert Spool(tmp_path / "small").states() == [14, 16]


def test_which_states_are_worth_keeping():
    plan = replace(PLAN, num_clip=100)
    small, big = StateSettings(1000), StateSettings(2**30)

    def kept(settings: StateSettings, plan: ClipPlan) -> list[int]:
        return [b for b in range(1, 101) if settings.worth_keeping(plan, b, newest=101)]

    assert kept(small, plan) == [*range(2, 101, 2)]
    # A quarter of the budget has room for 25 of these and for two of those, beside the last ones.
    assert kept(replace(small, budget=100_000), plan) == [*range(8, 70, 8), *range(70, 101, 2)]
    assert kept(big, plan) == [100]
    assert kept(big, replace(plan, segment_clips=20)) == [40, 80]


@pytest.mark.parametrize("clips", [1, 3, 5])
def test_segments_are_the_whole_bit_for_bit(folder, whole, clips):
    sampling, parts = Sampling(), []
    for index in range(-(-PLAN.num_clip // clips)):
        stream = stream_of(sampling, folder, replace(PLAN, segment_clips=clips, segment_index=index))
        parts.append(latents_of(stream))
        assert parts[-1].shape[1] * 4 == stream.segment.frames == 12 * len(stream)
    assert torch.equal(torch.cat(parts, dim=1), whole) and sampling.blocks == BLOCKS


def test_segments_with_states_only_at_their_ends(folder, whole):
    big, sampling, parts = StateSettings(2**27, 2**27), Sampling(), []
    for index in range(4):
        plan = replace(PLAN, segment_clips=2, segment_index=index)
        parts.append(latents_of(stream_of(sampling, folder, plan, states=big)))
        assert Spool(folder).states() == ([4 * (index + 1)] if index < 3 else [12])
    assert torch.equal(torch.cat(parts, dim=1), whole) and sampling.blocks == BLOCKS


def test_a_later_segment_alone_makes_what_is_before_it(folder, whole):
    sampling, said = Sampling(), []
    stream = stream_of(sampling, folder, replace(PLAN, segment_clips=3, segment_index=1), say=said.append)
    priming = stream.priming(10)
    assert torch.equal(priming, whole[:, 6:18]) and sampling.blocks == BLOCKS[:6]
    assert torch.equal(latents_of(stream), whole[:, 18:36])
    assert sampling.blocks == BLOCKS[:12] and sampling.first_blocks == [0]
    assert "Clips 1 to 3, before this segment, are missing and are made first" in said


def test_priming_reaches_back_to_the_history(folder, whole):
    history = stream_of(Sampling(), folder).history
    assert torch.equal(stream_of(Sampling(), folder).priming(39), history)
    second = stream_of(Sampling(), folder, replace(PLAN, segment_clips=2, segment_index=1))
    assert torch.equal(second.priming(39), torch.cat([history, whole[:, :12]], dim=1))
    second.close()


def test_a_longer_plan_goes_on_where_a_shorter_one_ended(folder, whole):
    sampling = Sampling()
    latents_of(stream_of(sampling, folder, replace(PLAN, num_clip=3)))
    assert torch.equal(latents_of(stream_of(sampling, folder)), whole) and sampling.blocks == BLOCKS


@pytest.mark.parametrize("reanchor_clips", [1, 3])
def test_a_sink_that_is_renewed_continues_exactly(folder, tmp_path, whole, reanchor_clips):
    plan = replace(PLAN, sink_policy="reanchor", reanchor_clips=reanchor_clips)
    renewed = latents_of(stream_of(Sampling(), tmp_path / "other", plan))
    clips = reanchor_clips + 1
    assert torch.equal(renewed[:, : 6 * clips], whole[:, : 6 * clips]) and not torch.equal(renewed, whole)
    sampling = Sampling(stop_at=(13, 1))
    with pytest.raises(InterruptedError):
        latents_of(stream_of(sampling, folder, plan))
    assert torch.equal(latents_of(stream_of(sampling, folder, plan)), renewed) and sampling.blocks == BLOCKS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], "SmallDisk"]]:
    """small_disk(bytes): a disk with so much room; a tmpfs, or for users who may not mount a limit of file sizes."""
    disks: list[SmallDisk] = []

    def make(free: int) -> SmallDisk:
        disks.append(SmallDisk(tmp_path / f"disk{len(disks)}", free))
        return disks[-1]

    yield make
    for disk in disks:
        disk.make_room()
        disk.remove()


class SmallDisk:
    def __init__(self, folder: Path, free: int) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
        self.mounted = subprocess.run(command, capture_output=True).returncode == 0
        self.filler = folder / "filler"
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.mounted:
            self.filler.write_bytes(bytes(2**26 - free))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (clip_bytes(PLAN), self.limits[1]))

    def make_room(self) -> None:
        self.filler.unlink(missing_ok=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)

    def remove(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


def test_a_full_disk_names_the_folder_and_loses_nothing(whole, small_disk):
    disk = small_disk(8 * clip_bytes(PLAN))
    folder, sampling = disk.folder / "spool", Sampling()
    stream = stream_of(sampling, folder)
    with pytest.raises(MachineError, match=rf"{folder}.*MiB more are needed there.*is kept"):
        latents_of(stream)
    made = len(sampling.blocks)
    assert 0 < made < PLAN.num_blocks and len(Spool(folder).clips()) == made // 2 - 1
    assert not list(folder.glob(".*")) and [text for text in stream.news if "no room for states" in text] == stream.news
    disk.make_room()
    assert torch.equal(latents_of(stream), whole) and sampling.blocks == BLOCKS


def test_on_a_full_disk_clips_come_before_states(whole, small_disk):
    """A state takes the room of ten clips; it is given up for the last ones, and the run comes to its end."""
    disk = small_disk(2 * STATE_BYTES)
    if not disk.mounted:
        pytest.skip("a limit of file sizes is not the room of a disk")
    stream = stream_of(Sampling(), disk.folder / "spool", replace(PLAN, num_clip=16))
    assert torch.equal(latents_of(stream)[:, :48], whole) and stream.finished_clips == 16
    assert len(stream.news) == 1 and "There is no room for states to go on from" in stream.news[0]


def test_two_on_one_spool_sample_once(folder, whole):
    first, second, said = Sampling(), Sampling(), []
    second_has_waited = threading.Event()
    slow = iter(stream_of(first, folder))
    next(slow)

    def wait(text: str) -> None:
        said.append(text)
        second_has_waited.set()

    results: list[Tensor] = []
    thread = threading.Thread(target=lambda: results.append(latents_of(stream_of(second, folder, say=wait))))
    thread.start()
    assert second_has_waited.wait(20)
    for _ in slow:
        pass
    thread.join(20)
    assert torch.equal(results[0], whole) and not second.blocks and first.blocks == BLOCKS
    assert "Another prompt is making this video" in said[0]


def test_waiting_for_another_prompt_can_be_interrupted(folder):
    holder = iter(stream_of(Sampling(), folder))
    next(holder)

    def stop() -> None:
        raise InterruptedError("the button")

    with pytest.raises(InterruptedError):
        next(iter(stream_of(Sampling(), folder, stop_if_interrupted=stop)))


class Reader:
    """Fails after some blocks, as a decoder with a full disk would."""

    def read(self, stream: LatentStream, blocks: int) -> None:
        for block in stream:
            if block.index == blocks:
                raise OSError("disk full")


def test_a_reader_that_fails_leaves_no_caches_behind(folder, whole):
    sampling = Sampling()
    caches = []
    begin = sampling._executor.make_cache

    def noting(*arguments):
        cache = begin(*arguments)
        caches.append(weakref.ref(cache))
        return cache

    sampling._executor = replace(sampling._executor, make_cache=noting)
    stream = stream_of(sampling, folder)
    with pytest.raises(OSError, match="disk full"):
        Reader().read(stream, 4)
    gc.collect()
    assert len(caches) == 1 and caches[0]() is None and not stream.spool.locked
    assert torch.equal(latents_of(stream), whole) and sampling.blocks == BLOCKS


def test_a_stream_without_a_spool_leaves_nothing_on_the_disk():
    stream = LatentStream(replace(PLAN, num_clip=1), torch.zeros(16, 7, 8, 8), Sampling())
    latents_of(stream)
    outer = stream.spool.folder.parent
    assert outer.exists()
    del stream
    gc.collect()
    assert not outer.exists()


@pytest.mark.parametrize(("clips", "index"), [(3, 3), (0, 1), (3, -1), (-1, 0), (20, 1)])
def test_segments_that_are_not_there(clips, index):
    with pytest.raises(InputError, match="segment_index"):
        replace(PLAN, segment_clips=clips, segment_index=index)


def test_a_voice_that_ends_before_the_segment():
    with pytest.raises(InputError, match="2 clips in segments of 2 make 1.*a voice must fill it"):
        replace(PLAN, segment_clips=2, segment_index=3).clamped_to(2)
    assert replace(PLAN, segment_clips=3, segment_index=2).segment.clips == range(6, 8)
    assert settings(2).allowed and not NO_STATES.allowed
