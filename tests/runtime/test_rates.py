"""Rates by kinds of work, against the card that was measured and what others published."""

from dataclasses import replace

import pytest
from card_setups import FP8, setup_of

from benchmarks.card_table import RTX_4090
from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.executors.advisor import Advisor
from liveavatar_runtime.executors.size_costs import MOST_CORRECTED, at_size, planned_stages, size_cost
from liveavatar_runtime.planning.observed import ObservedSpeed, ObservedSpeeds, SpeedKey
from liveavatar_runtime.planning.presets import CALIBRATIONS, CARDS, PRESETS, SOLD
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan

LARGE = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))


@pytest.mark.parametrize(
    ("size", "evaluation", "decoding"),
    [((384, 256), 95.08, 70.12), ((688, 368), 283.2, 168.1), ((720, 400), 332.5, 194.1)],
)
def test_the_h100_s_measured_times_come_out(size, evaluation, decoding):
    """Milliseconds of benchmarks/results/card-h100.md, within 10 %."""
    rates, work = CALIBRATIONS["H100"].rates, at_size(LARGE, *size)
    assert rates is not None
    assert 1e3 * rates.seconds(work.operations(work.layers)) == pytest.approx(evaluation, rel=0.1)
    assert 1e3 * rates.decode_seconds(work.decode_flops(), work.decode_moved()) == pytest.approx(decoding, rel=0.1)


def option(name: str, executor: str):
    machines = next(machines for machines in PRESETS if machines.name == name)
    return next(o for o in Advisor(LARGE, machines).options() if o.executor == executor and o.fits)


@pytest.mark.parametrize(
    ("machines", "executor", "fps"),
    [
        ("4x RTX 4090", "fsdp", 3.25),
        ("4x RTX 4090", "fsdp", 3.45),
        ("5x H800", "timestep_pipeline", 45.2),
        ("1x H100", "local", 8.915),
    ],
)
def test_published_and_measured_speeds_are_in_the_range(machines, executor, fps):
    assert option(machines, executor).fps.holds(fps)


def test_the_first_block_of_the_h100_is_in_the_range():
    assert option("1x H100", "local").first_block.holds(2.045)


def test_a_card_with_a_figure_says_so_and_is_known_better():
    for card in SOLD:
        assert CARDS[card.name].source == ("published" if card.figure else "assumed")
    assert CARDS["RTX 4090"].error < CARDS["A100"].error


def test_an_observed_run_is_the_prediction_and_corrects_other_sizes():
    setup = replace(setup_of(FP8), cards=("RTX 4090",))
    before, stages = size_cost(FP8, setup), planned_stages(FP8, setup)
    assert stages is not None and before.fps is not None and before.source == RTX_4090.source
    key = SpeedKey.of(FP8, setup.cards, stages.executor, stages.placement)

    def run(seconds: float) -> ObservedSpeeds:
        speed = ObservedSpeed(
            key=key, block_seconds=seconds, first_block_seconds=9.0, spread=0.01, blocks=40, date="2026-11-28"
        )
        return ObservedSpeeds((speed,))

    likely = before.fps.likely
    found = size_cost(FP8, replace(setup, observed=run(24.0 / likely)))
    assert found.source == "observed" and found.fps and found.fps.likely == pytest.approx(likely / 2)
    small = at_size(FP8, 384, 256)
    plain, told = (size_cost(small, replace(setup, observed=seen)) for seen in (ObservedSpeeds(), run(24.0 / likely)))
    assert plain.fps and told.fps and told.source == "observed"
    assert told.fps.likely == pytest.approx(plain.fps.likely / 2) and told.memory == plain.memory
    odd = size_cost(small, replace(setup, observed=run(1e5)))
    assert odd.fps and odd.fps.likely == pytest.approx(plain.fps.likely / MOST_CORRECTED)
