"""A day of a microphone whose clock is wrong, simulated: how far it gets from the session's sound, and what that takes.

    python -m benchmarks.live_drift [--hours 24]

Writes benchmarks/results/live_drift.md. Pieces of 0.1 s come late by up to 60 ms; the clock of the microphone is 200
millionths fast or slow, and sways by 20 in the course of an hour. Ten minutes for a day on a free processor.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np

from benchmarks import ROOT
from liveavatar_runtime.live.clock import Clock
from liveavatar_runtime.live.samples import SOUND_RATE
from liveavatar_runtime.live.sound import LiveSound
from liveavatar_runtime.live.source import Source

RESULTS = ROOT / "benchmarks" / "results" / "live_drift.md"
PIECE, LATE, SWAY = SOUND_RATE // 10, 0.06, 20
BLOCK = SOUND_RATE * 12 // 25
PERIOD = 8.0
"""Seconds after which the sound that tells its own time begins anew."""


class StandingClock(Clock):
    """Goes on when it is told to."""

    time = 0.0

    def now(self) -> float:
        return self.time


@dataclass
class Day:
    """What was seen: seconds from a sound's recording until it is heard, of each block."""

    late: np.ndarray
    ran_dry: int
    left_out: float
    samples_held: list[int]
    speeds: list[float]
    seconds: float


def held(sound: LiveSound, source: Source) -> int:
    """Samples in all memory of the session."""
    queue = source.buffer._reader.queue  # pyright: ignore
    return len(queue._data) + len(sound._history._ring)  # pyright: ignore


def day(hours: float, parts_per_million: float) -> Day:
    clock = StandingClock()
    sound = LiveSound(clock)
    sound.begin()
    source = sound.open_source("microphone", SOUND_RATE)
    random = np.random.default_rng(1)
    begun, arrived, end = time.process_time(), 0.0, hours * 3600
    recorded = 0.0
    offsets = np.arange(PIECE)
    found = Day(np.zeros(0), 0, 0.0, [], [], 0.0)
    late: list[float] = []
    while recorded < end:
        speed = 1 + 1e-6 * (parts_per_million + SWAY * np.sin(recorded / 3600 * 2 * np.pi))
        tone = (recorded % PERIOD + offsets / (SOUND_RATE * speed)).astype(np.float32)
        tone[tone >= PERIOD] -= PERIOD
        recorded += PIECE / (SOUND_RATE * speed)
        arrived = max(arrived, recorded + LATE * float(random.random()) ** 2)
        # The consumer asks for blocks as they become due.
        while sound.position + BLOCK <= arrived * SOUND_RATE:
            clock.time = max(clock.time, (sound.position + BLOCK) / SOUND_RATE + 1e-6)
            first = sound.position
            assert sound.wait_until(first + BLOCK)
            value = float(sound.read(first + BLOCK - 1, first + BLOCK))
            if value:
                late.append(((first + BLOCK - 1) / SOUND_RATE - (value - 0.1) / 0.8 * PERIOD) % PERIOD)
            if len(late) % 10_000 == 1:
                found.samples_held.append(held(sound, source))
                found.speeds.append(1e6 * (source.speed - 1))
        clock.time = max(clock.time, arrived)
        source.push(0.1 + np.float32(0.8 / PERIOD) * tone)
    found.late, found.seconds = np.array(late), time.process_time() - begun
    found.ran_dry, found.left_out = source.counts.ran_dry, source.counts.left_out
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24)
    hours = parser.parse_args().hours
    lines = [
        "# A microphone with a wrong clock",
        "",
        f"By `python -m benchmarks.live_drift --hours {hours:g}`: simulated, pieces of 0.1 s that come up to "
        f"{1000 * LATE:.0f} ms late, a clock that sways by {SWAY} millionths within an hour. Late: from recording to "
        "the session's sound, of each block of 12 frames, the first two minutes apart.",
        "",
        "| clock | uncorrected, it would be off by | late: median | least, most | in the first two minutes | ran dry | "
        "left out | samples in memory, least and most | processor time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for parts in (-200, 200):
        seen = day(hours, parts)
        first, late = seen.late[:250] * 1000, seen.late[250:] * 1000
        lines.append(
            f"| {parts:+d} millionths | {hours * 3600 * abs(parts) * 1e-6:.1f} s | {np.median(late):.1f} ms | "
            f"{late.min():.1f}, {late.max():.1f} ms | {first.min():.1f}, {first.max():.1f} ms | {seen.ran_dry} times | "
            f"{seen.left_out:.2f} s | {min(seen.samples_held):,}, {max(seen.samples_held):,} | {seen.seconds:.0f} s |"
        )
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
