"""Where every byte of a plan goes: rows whose sums are what is compared."""

from dataclasses import replace

import pytest
from card_setups import FP8, setup_of

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.executors.advisor import Advisor
from liveavatar_runtime.executors.size_costs import size_cost
from liveavatar_runtime.planning.memory import cache_bytes, working_rows
from liveavatar_runtime.planning.memory_rows import MemoryRow, rows_of, rows_text, taken, together
from liveavatar_runtime.planning.presets import PRESETS
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.script import Change, Script
from liveavatar_runtime.texts import GIB

LARGE = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))


def sizes(rows) -> dict[str, float]:
    return {row.what: row.size for row in rows}


def test_rows_keep_one_order_and_equal_ones_are_one():
    rows = together(rows_of([("VAE", 2), ("weights", 1)]), rows_of([("weights", 3), ("prompt", 0)]))
    assert rows == (MemoryRow("weights", 4), MemoryRow("VAE", 2)) and taken(rows) == 6
    assert rows_text(rows_of([("KV caches", 1.5 * GIB)])) == "KV caches 1.5 GiB"


def test_two_prompts_are_there_while_one_begins():
    """0.39 GiB each of the 14B model in bf16."""
    script = Script((Change(block=5, seed=7), Change(block=9, text=True)))
    prompts, seeds = (replace(LARGE, plan=replace(LARGE.plan, script=s)) for s in (script, Script(script.changes[:1])))
    one, two, same = (sizes(working_rows(work)) for work in (LARGE, prompts, seeds))
    assert same == one and two == {**one, "prompt": 2 * one["prompt"]}
    assert one["prompt"] == 2 * 40 * 512 * 5120 * 2


@pytest.mark.parametrize("machines", PRESETS, ids=lambda machines: machines.name)
def test_every_way_tells_all_that_it_takes(machines):
    for option in Advisor(LARGE, machines).options():
        assert option.memory == tuple(map(taken, option.devices))
        rows = [sizes(rows) for rows in option.devices]
        caches = sum(row.get("KV caches", 0) for row in rows) + sizes(option.ram).get("KV caches", 0)
        if option.executor != "fsdp":
            # Layers or steps are shared out, and with them their caches; sinks are kept for two steps at least.
            assert caches >= 0.99 * cache_bytes(LARGE, option.setting.placement)
        weights = sum(row.get("weights", 0) for row in rows)
        whole = LARGE.weights(LARGE.layers)
        window = 2 * whole // WAN_S2V_14B.num_layers
        streamed = sizes(option.ram).get("streamed weights", 0)
        if option.executor == "local" and streamed:
            assert weights + streamed == pytest.approx(whole + window)
        elif option.executor in ("local", "layer_pipeline"):
            assert weights == whole
        assert sum("VAE" in row for row in rows) == 1 and not any("reserve" in row for row in rows)


def test_fsdp_gathers_two_layers_beside_its_part():
    machines = next(m for m in PRESETS if m.name == "4x RTX 4090")
    option = next(o for o in Advisor(LARGE, machines).options() if o.executor == "fsdp" and not o.setting.vae_alone)
    (first, *_) = map(sizes, option.devices)
    layers = [LARGE.layer_weights(layer) for layer in LARGE.layers]
    whole = LARGE.weights(LARGE.layers) - sum(layers)
    assert first["weights"] == pytest.approx(whole + sum(layers) / 4)
    assert max(layers) < first["gather buffers"] < 2 * max(layers)


def test_weights_that_are_streamed_are_counted_in_ram():
    """16 GiB of fp8 weights beside what the card needs for the work."""
    small = setup_of(FP8, replace(setup_of(FP8).machines.devices[0], memory=12 * GIB, occupied=0))
    cost = size_cost(FP8, small)
    assert cost.fits and cost.streams and cost.ram == taken(cost.in_ram)
    rows = sizes(cost.in_ram)
    assert rows["streamed weights"] > 5 * GIB and rows["KV caches"] > 35 * GIB
    # With so little RAM that only the caches fit there, the plan is refused.
    device = replace(small.machines.devices[0], ram=rows["KV caches"] + 1 * GIB)
    refused = size_cost(FP8, replace(small, machines=replace(small.machines, devices=(device,))))
    assert not refused.fits and refused.ram > device.ram
    on_disk = replace(FP8, on_disk_bytes=int(16 * GIB))
    assert size_cost(on_disk, replace(small, machines=replace(small.machines, devices=(device,)))).fits
