"""kill -9 at any moment: the video becomes what it would have been, and no finished clip is sampled twice.

LIVEAVATAR_KILLS=20 kills more often, in a longer video.
"""

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from spooled_video import PLAN, Sampling, latents_of, sample_in_process, stream_of, write_large_clips

from liveavatar_runtime.spool.spool import Spool

KILLS = int(os.environ.get("LIVEAVATAR_KILLS", "5"))
VIDEO = replace(PLAN, num_clip=3 * KILLS)


class Killable:
    """Processes that sample the video, each killed some time after it has begun to work."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        # Each process is forked from one that has imported torch and done nothing.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "safetensors.torch", "torch._dynamo"])

    def run(self, kill_after: float | None) -> bool:
        """Whether it came to its end; `kill_after` seconds from its first block on it is killed."""
        sampled = len(self.blocks())
        process = self._context.Process(target=sample_in_process, args=(str(self.folder), str(self.log), VIDEO))
        process.start()
        if kill_after is not None:
            while process.is_alive() and len(self.blocks()) == sampled:
                time.sleep(0.002)
            time.sleep(kill_after)
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode == 0

    def blocks(self) -> list[int]:
        """Every block that was sampled to its end, in order, by all processes together."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


def test_kill_9_at_random_moments(tmp_path):
    whole = latents_of(stream_of(Sampling(), tmp_path / "whole", VIDEO))
    folder, log = tmp_path / "spool", tmp_path / "log"
    killable, times = Killable(folder, log), random.Random(7)
    kills = 0
    while kills < KILLS:
        finished = len(Spool(folder).clips()) * PLAN.blocks_per_clip
        before = len(killable.blocks())
        if killable.run(times.uniform(0, 0.15)):
            break
        kills += 1
        assert min(killable.blocks()[before:], default=finished) >= finished, "a finished clip was sampled again"
    assert kills >= KILLS // 2 and killable.run(None)
    print(f"{kills} kills, {len(killable.blocks())} blocks sampled for {VIDEO.num_blocks}")
    stream = stream_of(Sampling(), folder, VIDEO)
    assert torch.equal(latents_of(stream), whole) and stream.finished_clips == VIDEO.num_clip
    assert max(Counter(killable.blocks()).values()) <= 1 + kills
    assert not list(folder.glob(".*"))


def test_a_file_half_written_by_a_killed_process_goes(tmp_path):
    """Whatever the library for the files leaves beside its target."""
    spool = Spool(tmp_path / "spool")
    assert spool.try_lock()
    spool.unlock()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=write_large_clips, args=(str(spool.folder),))
    process.start()
    writer = psutil.Process(process.pid)
    while True:
        assert process.is_alive()
        if any(spool.folder.glob(".*")):
            # Stopped, it cannot finish the file between the look and the kill.
            writer.suspend()
            while writer.status() != psutil.STATUS_STOPPED:
                pass
            if any(spool.folder.glob(".*")):
                break
            writer.resume()
    process.kill()
    process.join()
    assert any(spool.folder.glob(".*"))
    assert spool.try_lock() and not list(spool.folder.glob(".*"))
