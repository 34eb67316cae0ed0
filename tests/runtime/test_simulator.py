"""The simulator against schedules that can be worked out by hand, the workload against a counted model, the advice."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_avatar import CONFIG, PLAN, random_conditions, random_model
from torch.utils.flop_counter import FlopCounterMode

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.dit.model import BlockPlace
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.executors.advisor import Advisor, documented, table
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.pipeline.schedule import LayerSchedule, Span, TimestepSchedule, split_steps
from liveavatar_runtime.planning.machines import Machines
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_runtime.planning.presets import PRESETS, RTX_4090
from liveavatar_runtime.planning.simulator import Costs, Link, simulate
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae import DecodeState, VaeConfig, WanVAE

LARGE = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))


@pytest.mark.parametrize(("stages", "steps"), list(itertools.product(range(1, 7), range(1, 6))))
def test_equal_stages_work_at_the_ticks_of_the_schedule(stages, steps):
    schedule = LayerSchedule(split_evenly(12, stages), steps)
    span = Span(0, 30, {0: None})
    result = simulate(schedule, span, Costs(evaluate=[1.0] * stages, sink=[steps] * stages))
    ticks = {o.block: o.tick for o in schedule.operations(stages - 1, span) if o.step == steps - 1}
    for block, seconds in enumerate(result.sampled):
        # Work begins as soon as it can: where ticks are left over before the first block, earlier than its tick.
        assert seconds <= ticks[block] + 1 + steps * (stages - 1)
    assert result.seconds_per_block == pytest.approx(steps)


@pytest.mark.parametrize(("devices", "period"), [(1, 4), (2, 2), (3, 2), (4, 1), (6, 1)])
def test_the_timestep_pipeline_is_as_fast_as_its_longest_stage(devices, period):
    steps = split_steps(4, devices)
    costs = Costs(evaluate=[1.0] * len(steps), sink=[1.0] * len(steps))
    result = simulate(TimestepSchedule(5, steps), Span(0, 20, {0: None}), costs)
    assert result.seconds_per_block == pytest.approx(period)
    assert result.first_block == pytest.approx(5)


def test_the_slowest_stage_sets_the_pace():
    schedule = LayerSchedule(split_evenly(6, 3), 4)
    result = simulate(schedule, Span(0, 40, {0: None}), Costs(evaluate=[1.0, 1.5, 1.0], sink=[1.0] * 3))
    assert result.seconds_per_block == pytest.approx(6)
    assert result.busy[1] > 0.9 > result.busy[0]


def test_a_new_sink_waits_for_its_block():
    schedule = LayerSchedule(split_evenly(4, 4), 4)
    costs = Costs(evaluate=[1.0] * 4, sink=[1.0] * 4)
    renewed = simulate(schedule, Span(0, 12, {0: None, 1: 0}), costs)
    # The sink at the first stage, then every evaluation of the block through all stages.
    assert renewed.sampled[1] - renewed.sampled[0] == pytest.approx(1 + 4 * 4)
    assert simulate(schedule, Span(0, 12, {0: None}), costs).sampled[1] < renewed.sampled[1]


def test_links_cost_latency_until_they_are_full():
    schedule = LayerSchedule(split_evenly(4, 2), 4)

    def pace(link: Link) -> float:
        links = {(0, 1): link, (1, 0): link}
        costs = Costs(evaluate=[1.0, 1.0], sink=[1.0, 1.0], links=links, hidden_bytes=100)
        return simulate(schedule, Span(0, 40, {0: None}), costs).seconds_per_block

    assert pace(Link(1000, 0.1)) == pytest.approx(4)
    assert pace(Link(50)) == pytest.approx(8)


@pytest.mark.parametrize(("decoder_at", "pace"), [(None, 4), (0, 6), (1, 6)])
def test_a_decoder_on_a_stage_takes_its_time_from_it(decoder_at, pace):
    schedule = LayerSchedule(split_evenly(4, 2), 4)
    costs = Costs(evaluate=[1.0, 1.0], sink=[1.0, 1.0], decode=2.0, decoder_at=decoder_at)
    assert simulate(schedule, Span(0, 40, {0: None}), costs).seconds_per_block == pytest.approx(pace, rel=0.02)


def test_the_floating_point_operations_are_those_of_the_model():
    plan = replace(PLAN, num_clip=3, infer_frames=48, steps=1, sink_policy="reference")
    work = Workload(CONFIG, plan)
    device, model, conditions = torch.device("cpu"), random_model(), random_conditions()
    # The counter does not know the kernel that scaled_dot_product_attention takes on a processor.
    model.attention = lambda q, k, v: (q @ k.transpose(2, 3)).softmax(dim=-1) @ v

    def counted(clips: int) -> int:
        with FlopCounterMode(display=False) as counter:
            list(
                LocalExecutor(model, device, torch.float32).run(
                    SamplingRequest(conditions, replace(plan, num_clip=clips))
                )
            )
        return counter.get_total_flops()

    # Blocks of the last clip have full rings; what is made once a block, the voice's keys and values, is small.
    predicted = plan.blocks_per_clip * work.evaluation_flops(range(CONFIG.num_layers))
    voice = counted(3) - counted(2) - predicted
    assert 0 <= voice < 0.5 * predicted
    with FlopCounterMode(display=False) as counter:
        tokens = model.embed_audio(conditions.audio.frames(0, 12), torch.float32, device)
        model.block_context(BlockPlace(0, 3, plan.grid), tokens, model.layers)
    assert voice == pytest.approx(plan.blocks_per_clip * counter.get_total_flops(), rel=1e-6)


def test_the_decoder_operations_are_those_of_the_vae():
    vae, state = WanVAE(VaeConfig(), device="meta"), DecodeState()
    with torch.inference_mode():
        vae.decode_stream(torch.empty(1, 16, 7, 8, 8, device="meta"), state)
        with FlopCounterMode(display=False) as counter:
            vae.decode_stream(torch.empty(1, 16, 3, 8, 8, device="meta"), state)
    work = Workload(CONFIG, replace(PLAN, width=64, height=64))
    assert counter.get_total_flops() == pytest.approx(work.decode_flops(), rel=1e-3)


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
def test_shares_of_the_14b_model(stages):
    shares = [LARGE.weights(layers) for layers in split_evenly(40, stages)]
    assert sum(shares) == 2 * 16_295_755_609
    layer = LARGE.weights(range(1, 2))
    # Embeddings and head weigh about as much as a layer.
    assert all(abs(share - sum(shares) / stages) <= 1.5 * layer for share in shares)


def test_the_unquantised_model_fits_on_four_small_cards_only_as_a_layer_pipeline():
    machines = next(m for m in PRESETS if m.name == "4x RTX 4090")
    resident = [o for o in Advisor(LARGE, machines).options() if o.fits and not o.from_ram]
    assert {option.executor for option in resident} == {"layer_pipeline"}
    assert Advisor(LARGE, machines).best().executor == "layer_pipeline"


def test_the_layer_pipeline_is_as_fast_as_the_timestep_pipeline_and_goes_on_growing():
    for name in ("5x H800", "8x A100 80 GB"):
        machines = next(m for m in PRESETS if m.name == name)
        fps = {o.executor: o.fps.likely for o in reversed(Advisor(LARGE, machines).options())}
        assert fps["layer_pipeline"] > 0.95 * fps["timestep_pipeline"] > 3 * fps["local"]


def test_what_fits_nowhere_says_what_is_missing():
    tiny = replace(RTX_4090, memory=2 * 2**30)
    machines = replace(PRESETS[0], name="a toy", devices=(tiny,))
    with pytest.raises(MachineError, match=r"no executor fits on a toy: local comes nearest with \d+\.\d GiB"):
        Advisor(LARGE, machines).best()


def test_slow_networks_do_not_stop_a_layer_pipeline_over_machines():
    machines = next(m for m in PRESETS if m.name.startswith("2 machines"))
    one = Machines.of("one", RTX_4090, (8,), machines.interconnect)
    over, within = (Advisor(LARGE, m).best() for m in (machines, one))
    assert over.executor == within.executor == "layer_pipeline"
    assert over.fps.likely > 0.95 * within.fps.likely


def test_the_table_has_a_row_for_every_executor():
    rows = table(LARGE, PRESETS[2])
    assert len(rows) == 4 and all(row.count("|") == 8 for row in rows)


def test_the_documented_tables_are_those_of_the_planner():
    root = Path(__file__).parents[2]
    page, short = ((root / name).read_text(encoding="utf-8") for name in ("docs/EXECUTORS.md", "docs/MEMORY.md"))
    header, rule, *rows = documented()
    assert "\n".join((header, rule, *rows)) in page
    best = {row.split("|")[1]: row for row in reversed(rows)}
    assert "\n".join((header, rule, *reversed(best.values()))) in short
