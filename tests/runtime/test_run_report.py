"""The report of a run: what many numbers are like, who waited for whom, and the file and table of it."""

import json
import random
import statistics
import sys

import pytest

from liveavatar_runtime.distribution import Distribution
from liveavatar_runtime.media.threads import ThreadPipeline
from liveavatar_runtime.run_report import MadeVideo, Peak, Prediction, RunReport, Sampled
from liveavatar_runtime.stage_times import DISK, ENCODER, FINISHING, SAMPLER, VAE, StageTimes, VideoTimes

GIB = 2**30


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def times_of(worked: dict[str, float], waited: dict[tuple[str, str], float], seconds: float) -> VideoTimes:
    clock = Clock()
    times = VideoTimes(clock)
    clock.now += seconds
    for name, value in worked.items():
        times.stages[name].worked = value
    for (name, what), value in waited.items():
        setattr(times.stages[name], what, value)
    return times


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.6])
def test_quantiles_are_right_within_a_percent(spread):
    random.seed(3)
    values = [8.4 * random.lognormvariate(0, spread) for _ in range(999)]
    found = Distribution()
    for value in values:
        found.add(value)
    summary, ordered = found.summary(), sorted(values)
    assert summary is not None and summary.count == 999
    for share, value in ((0.1, summary.p10), (0.5, summary.median), (0.9, summary.p90), (0.95, summary.p95)):
        assert value == pytest.approx(ordered[-(-int(share * 1000) * 999 // 1000) - 1], rel=0.011)
    assert (summary.min, summary.max) == (ordered[0], ordered[-1])
    assert summary.mean == pytest.approx(statistics.fmean(values))
    assert summary.variation == pytest.approx(statistics.pstdev(values) / statistics.fmean(values), abs=1e-9)


def test_a_long_video_takes_no_more_memory_than_a_short_one():
    random.seed(1)
    found, sizes = Distribution(), []
    for number in range(200_000):
        found.add(random.lognormvariate(0, 0.3))
        if number in (20_000, 199_999):
            sizes.append(sys.getsizeof(found._bins))
    assert sizes[0] == sizes[1]


def test_no_numbers_have_no_summary_and_zero_is_one():
    found = Distribution()
    assert found.summary() is None
    found.add(0.0)
    summary = found.summary()
    assert summary is not None and summary.median > 0 and summary.variation == 0


def test_a_stage_s_own_time_and_both_kinds_of_waiting_are_told_apart():
    """Handshakes, and a clock that only the test moves: nothing depends on how fast the threads are."""
    import threading

    clock = Clock()
    times = [StageTimes(clock=clock), StageTimes(clock=clock)]
    sampler = StageTimes(clock=clock)
    asked, answer = threading.Semaphore(0), threading.Semaphore(0)

    def passed(item: int) -> int:
        asked.release()
        assert answer.acquire(timeout=60)
        return item

    def written(item: int) -> None:
        asked.release()
        assert answer.acquire(timeout=60)

    def work(seconds: float) -> None:
        """While one of the functions is at work and nobody else can be."""
        assert asked.acquire(timeout=60)
        clock.now += seconds
        answer.release()

    with ThreadPipeline([passed, written], times=times) as pipeline:
        for _ in range(3):
            with sampler.measured("worked"):
                clock.now += 10
            pipeline.put(0)
            work(4)
            work(1)
            # The next item is only made when this one is through: the encoder waits for more then.
            while times[1].worked < sampler.worked / 10:
                pipeline.check()
    assert (sampler.worked, times[0].worked, times[1].worked) == (30, 12, 3)
    # A thread may still be on its way out of what it waited for when the clock moves on.
    assert times[0].for_work == pytest.approx(3 * 11, abs=11) and times[0].for_room <= 3
    assert times[1].for_work == pytest.approx(3 * 14, abs=11)


@pytest.mark.parametrize(
    ("worked", "slowest"),
    [
        ({SAMPLER: 95.0, VAE: 30.0, ENCODER: 10.0}, SAMPLER),
        ({SAMPLER: 40.0, VAE: 96.0, ENCODER: 10.0}, VAE),
        ({SAMPLER: 40.0, VAE: 30.0, ENCODER: 99.0}, ENCODER),
        ({SAMPLER: 60.0, VAE: 59.0, ENCODER: 10.0}, ""),
        ({}, ""),
    ],
)
def test_the_bottleneck_is_the_stage_that_works_longest(worked, slowest):
    times = times_of(worked, {}, 100.0)
    assert times.bottleneck() == slowest
    assert times.sentence().startswith("Slowest stage: the " if slowest else "No stage is much slower")


def test_a_slow_disk_is_told_from_a_slow_encoder():
    times = times_of({SAMPLER: 50.0, VAE: 20.0, ENCODER: 90.0}, {(SAMPLER, "for_room"): 40.0}, 100.0)
    times.file, times.spool = 80.0, 15.0
    assert times.work() == {SAMPLER: 35.0, VAE: 20.0, ENCODER: 10.0, DISK: 95.0} and times.bottleneck() == DISK
    assert times.sentence() == (
        "Slowest stage: the disk, at work 95% of the time; the sampler waited 40.0 s for the VAE"
    )


def test_waits_are_named_by_who_waits_for_whom():
    waited = {(VAE, "for_work"): 60.0, (VAE, "for_room"): 0.2, (ENCODER, "for_work"): 85.0}
    text = times_of({SAMPLER: 95.0, VAE: 35.0, ENCODER: 10.0}, waited, 100.0).sentence()
    assert text == (
        "Slowest stage: the sampler, at work 95% of the time; the VAE waited 60.0 s for the sampler; "
        "the encoder waited 85.0 s for the VAE"
    )


def a_report(**changes) -> RunReport:
    times = times_of({SAMPLER: 95.0, VAE: 35.0, ENCODER: 10.0}, {(VAE, "for_work"): 60.0}, 102.0)
    times.written, times.replayed, times.first_block = 30, 4, 4.8
    each = Distribution()
    for number in range(25):
        each.add(3.0 + 0.01 * number)
    video = MadeVideo(
        file="a_00001_.mp4",
        clips=10,
        infer_frames=36,
        width=384,
        height=256,
        frames=360,
        wanted_frames=360,
        seconds=22.5,
    )
    values = {
        "ended": "finished",
        "date": "2026-11-28 01:02:03",
        "video": video,
        "settings": {"plan": {"seed": 7, "fps": "24000/1001"}, "executor_why": ["a | b", "c"], "caches": None},
        "versions": {"pack": "0.1.0", "driver": None},
        "times": times,
        "sampled": Sampled(blocks=26, first_block=4.2, each=each.summary()),
        "peaks": [Peak(device="cuda:0", name="NVIDIA GeForce RTX 4090", used=13 * GIB, total=24 * GIB)],
        "predicted": {"block_seconds": Prediction(low=2.0, likely=2.5, high=4.0)},
    }
    return RunReport(**{**values, **changes})


def test_the_finishing_is_a_stage_in_the_thread_of_the_vae():
    times = times_of({SAMPLER: 20.0, VAE: 95.0, ENCODER: 10.0}, {(SAMPLER, "for_room"): 70.0}, 100.0)
    times.finishing = 80.0
    assert list(times.work()) == [SAMPLER, VAE, FINISHING, ENCODER, DISK]
    assert times.work()[VAE] == 15.0 and times.bottleneck() == FINISHING
    assert times.sentence() == (
        "Slowest stage: the finishing, at work 80% of the time; the sampler waited 70.0 s for the VAE and the finishing"
    )


def test_the_file_has_all_of_it_in_plain_json():
    found = json.loads(a_report().as_json())
    assert found["ended"] == "finished" and found["seconds"] == 102 and found["first_frame_seconds"] == 4.8
    assert found["blocks"] == {"written": 30, "replayed": 4, "sampled": 26}
    assert found["block_seconds"]["count"] == 25 and found["block_seconds"]["median"] == pytest.approx(3.12, rel=0.01)
    assert found["stages"]["waited_seconds"][VAE] == {SAMPLER: 60, ENCODER: 0} and found["bottleneck"]
    assert found["stages"]["bottleneck"] == SAMPLER and found["realtime"] == pytest.approx(22.5 / 102, rel=1e-3)
    assert found["predicted"]["block_seconds"] == {"low": 2, "likely": 2.5, "high": 4}
    assert found["settings"]["plan"]["fps"] == "24000/1001" and found["versions"]["driver"] is None
    # Of a run with replayed blocks the time of all says nothing about a prediction.
    assert found["measured"]["seconds"] is None


def test_the_table_begins_with_the_article_s_row():
    text = a_report().as_markdown()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| clips | size | frames/clip | video | time | peak/card | first frame |"
    assert rows[2] == "| 10 | 384x256 | 36 | 22.5 s | 1 min 42 s | 13.0 GiB | 4.8 s |"
    assert "| block, median | 3.1 s (predicted 2.0 s to 4.0 s) |" in rows
    assert "| peak cuda:0 (NVIDIA GeForce RTX 4090) | 13.0 GiB of 24.0 GiB |" in rows
    assert "| executor_why | a \\| b; c |" in rows, "a | in a cell ends it"
    assert all(row.replace("\\|", "").count("|") == rows[0].count("|") for row in rows[:3])


def test_an_early_end_is_said():
    video = MadeVideo(
        file="a.mp4", clips=10, infer_frames=36, width=64, height=64, frames=24, wanted_frames=360, seconds=1.5
    )
    report = a_report(ended="interrupted", video=video, sampled=Sampled(), predicted={})
    assert "**interrupted**: 24 of 360 frames" in report.as_markdown()
    found = json.loads(report.as_json())
    assert found["ended"] == "interrupted" and found["block_seconds"] is None and found["measured"]["seconds"] is None


def test_the_published_table_s_rows_are_read_from_reports():
    """`python -m benchmarks.table`: the same figures as in the report's own first row."""
    from benchmarks.table import ROWS, cells, text_of

    found = json.loads(a_report().as_json())
    row = next(line for line in a_report().as_markdown().splitlines() if line.startswith("| 10 |"))
    assert "| " + " | ".join(map(str, cells(found))) + " |" == row
    found["settings"] |= {"dtype": "bfloat16", "executor": "local"}
    found["settings"]["plan"]["steps"] = 4
    page = text_of(ROWS[:1], [found], "")
    assert row in page and "| 10 | 384x256 | 32 | 20 s | 1m42s | 13.2 GB | 4.8 s |" in page
    assert [published.possible_frames for published in ROWS] == [36, 48, 48, 48, 48]
