"""Plan Check's arithmetic: what it advises makes the plan fit, what it draws is what is planned."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from PIL import Image, ImageFont
from plan_cases import case_of

from liveavatar_runtime.executors import plan_advice
from liveavatar_runtime.executors.plan_advice import advise, with_more_ram
from liveavatar_runtime.executors.plan_bars import bars_of
from liveavatar_runtime.executors.plan_case import answer, with_memory
from liveavatar_runtime.executors.plan_changes import Change, changes_for, widgets_of
from liveavatar_runtime.executors.plan_report import PlanReport
from liveavatar_runtime.media import bar_chart, lettering
from liveavatar_runtime.planning.known_machines import KNOWN, NAMES, known_machine
from liveavatar_runtime.planning.observed import ObservedSpeed, ObservedSpeeds, SpeedKey
from liveavatar_runtime.planning.presets import PRESETS
from liveavatar_runtime.texts import GIB

ONE_CARD = ("1x 8 GiB card", "1x 12 GiB card", "1x 16 GiB card", "1x RTX 4090", "1x 32 GiB card")
SIZES = ("720x400", "368x688", "384x256")
MACHINES = [*product(ONE_CARD, (32, 64)), ("1x 12 GiB card", 16), ("4x RTX 4090", 32)]


def flat(changes: Sequence[Change]) -> dict[str, str | int]:
    return {name: value for node in widgets_of(changes).values() for name, value in node.items()}


@pytest.mark.parametrize("weights", ["fp8", "bf16"])
@pytest.mark.parametrize("machine", MACHINES, ids=lambda one: f"{one[0]}, {one[1]} GiB")
def test_every_advice_followed_makes_the_plan_fit(machine: tuple[str, int], weights: str):
    refused = advised = 0
    for size in SIZES if machine[0].startswith("1x") else SIZES[:1]:
        widgets = {"size": size}
        found = answer(case_of(*machine, widgets, weights))
        if found.fits:
            continue
        refused += 1
        for way in advise(found).ways:
            advised += 1
            followed = answer(case_of(*machine, {**widgets, **flat(way.changes)}, weights))
            assert followed.fits, (size, way.changes)
            assert followed.cost == way.after.cost
    assert advised or not refused or machine[1] <= 32


@pytest.mark.parametrize(
    ("machine", "ram", "widgets"),
    [
        ("1x RTX 4090", 64, {"kv_dtype": "model"}),
        ("1x RTX 4090", 64, {"kv_cache": "device"}),
        ("1x RTX 4090", 128, {"kv_cache": "device", "schedule": "sequential", "steps": 8}),
        ("4x RTX 4090", 64, {"executor": "fsdp"}),
        ("4x RTX 4090", 64, {"executor": "timestep_pipeline"}),
        ("4x RTX 4090", 64, {"executor": "local"}),
    ],
)
def test_settings_that_do_not_fit_are_told_the_ones_that_do(machine, ram, widgets):
    found = answer(case_of(machine, ram, widgets, "bf16"))
    ways = advise(found).ways
    assert not found.fits and ways
    for way in ways:
        assert answer(case_of(machine, ram, {**widgets, **flat(way.changes)}, "bf16")).fits, way.changes
    if machine == "4x RTX 4090":
        assert flat(ways[0].changes) == {"executor": "layer_pipeline", "devices": "auto"} and ways[0].cost == 0


def test_the_least_harm_comes_first_and_single_changes_before_several():
    for ram, size in product((16, 32, 64), SIZES):
        ways = advise(answer(case_of("1x RTX 4090", ram, {"size": size}, "bf16"))).ways
        assert [way.cost for way in ways] == sorted(way.cost for way in ways)
        assert len({len(way.changes) for way in ways}) <= 1


def test_several_changes_are_the_cheapest_of_all_that_fit():
    widgets = {"size": "720x400"}
    found = answer(case_of("1x 12 GiB card", 32, widgets, "bf16"))
    (way,) = advise(found).ways
    assert len(way.changes) > 1
    for chosen in product(*[(None, *kind) for kind in changes_for(found.case)]):
        changes = tuple(filter(None, chosen))
        if sum(change.cost for change in changes) < way.cost - 1e-9:
            assert not answer(case_of("1x 12 GiB card", 32, {**widgets, **flat(changes)}, "bf16")).fits, changes


def test_what_would_do_without_a_change_is_told_to_the_gibibyte():
    found = answer(case_of("1x RTX 4090", 48, {"kv_dtype": "model"}))
    told = advise(found)
    assert told.more_ram and told.memory
    assert answer(with_more_ram(found.asked, told.more_ram)).fits
    assert not answer(with_more_ram(found.asked, told.more_ram - GIB)).fits
    assert answer(with_memory(found.asked, [told.memory])).fits
    assert not answer(with_memory(found.asked, [told.memory - GIB])).fits


def test_a_plan_that_nothing_helps_says_so():
    found = answer(case_of("1x 8 GiB card", 16, {"size": "384x256", "steps": 1, "window_blocks": 1}))
    told = advise(found)
    assert not found.fits and not told.ways
    lines = PlanReport(found, told, "1x 8 GiB card", "a model", found.case.work.plan).lines()
    assert lines[0].startswith("It does not fit: 384x256 in 1 steps on 1x 8 GiB card. RAM would have to hold ")
    assert any(line.startswith("It would fit as it is with ") for line in lines)


@pytest.mark.parametrize("weights", ["fp8", "bf16"])
@pytest.mark.parametrize("ram", [32, 64, 128])
@pytest.mark.parametrize("machine", ["1x 12 GiB card", "1x RTX 4090", "1x H100", "4x RTX 4090"])
def test_the_bars_are_what_is_planned(machine, ram, weights):
    found = answer(case_of(machine, ram, {}, weights))
    bars = bars_of(found)
    assert bars[-1].title == "RAM" and all(size >= 0 for bar in bars for _, size in bar.rows)
    assert found.fits == (not any(bar.filled > bar.limit + 1 for bar in bars))
    if found.fits:
        assert [bar.filled for bar in bars[:-1]] == pytest.approx(found.cost.memory)
        assert dict(bars[-1].rows).get("KV caches", 0) == pytest.approx(found.cost.ram)
        assert all(bar.limit == pytest.approx(0.92 * bar.size) for bar in bars)


def test_fp16_is_advised_for_speed_only():
    found = answer(case_of("1x RTX 4090", 128, {}, "bf16"))
    (way,) = [way for way in advise(found).ways if flat(way.changes) == {"precision": "fp16"}]
    assert way.after.cost.memory == found.cost.memory and way.changes[0].published
    assert not [way for way in advise(answer(case_of("1x RTX 4090", 64, {}, "bf16"))).ways if way.changes[0].published]


def test_every_machine_that_may_be_chosen_is_there():
    for name in NAMES[1:]:
        found = known_machine(name, 1.0)
        assert (found.devices[0].memory or 0) >= 8 * GIB and found.devices[0].ram == 1.0
        assert (found.devices[0].source == "unknown") == (name not in KNOWN)
    on_one_host = {machines.name for machines in PRESETS if set(machines.machine_of) == {0}}
    assert on_one_host <= set(NAMES)


def report_of(machine: str, ram: float, **widgets) -> PlanReport:
    found = answer(case_of(machine, ram, widgets))
    return PlanReport(found, advise(found), machine, "a model", found.case.work.plan)


def colours(picture: Image.Image) -> set:
    return {colour for _, colour in picture.getcolors(1 << 20) or []}


@pytest.mark.parametrize(("ram", "colour"), [(64, bar_chart.BAD), (128, bar_chart.GOOD)])
@pytest.mark.parametrize("scalable", [True, False])
def test_the_picture_is_readable_with_every_pillow(monkeypatch, ram, colour, scalable):
    if not scalable:
        # As in Pillow before 10.1: one font of one size.
        old = ImageFont.load_default_imagefont()
        monkeypatch.setattr(lettering, "_font", lambda size: None)
        monkeypatch.setattr(ImageFont, "load_default", lambda: old)
    picture = bar_chart.draw_chart(report_of("1x RTX 4090", ram).chart())
    assert picture.width == bar_chart.WIDTH and 400 < picture.height < 1200
    seen = colours(picture)
    assert tuple(bytes.fromhex(colour[1:])) in seen
    for part in bar_chart.COLOURS[:4]:
        assert tuple(bytes.fromhex(part[1:])) in seen
    # Nothing is drawn beyond the margins.
    frame = picture.crop((picture.width - bar_chart.MARGIN // 2, 0, picture.width, picture.height))
    assert colours(frame) == {(255, 255, 255)}


def test_many_cards_make_no_endless_picture():
    report = report_of("8x A100 80 GB", 64)
    assert len(report.bars) == 9
    assert bar_chart.draw_chart(report.chart()).height < 1600


def test_a_report_is_made_in_reasonable_arithmetic():
    """No advice asks the planner more than it has changes for, but where several are needed at once."""
    found = answer(case_of("1x RTX 4090", 128, {}))
    asked = []
    original = plan_advice.answer
    try:
        plan_advice.answer = lambda case: asked.append(case) or original(case)
        advise(found)
    finally:
        plan_advice.answer = original
    assert 0 < len(asked) <= sum(map(len, changes_for(found.case)))


def test_what_earlier_runs_took_is_told_of_the_same_plan():
    """Hardware Probe and finished runs leave such records."""
    case = replace(case_of("1x RTX 4090", 128, {}), card="RTX 4090")
    found = answer(case)
    assert found.stages is not None
    key = SpeedKey.of(case.work, ("RTX 4090",), found.stages.executor, found.stages.placement)
    ran = ObservedSpeed(key=key, block_seconds=12.0, first_block_seconds=9.0, spread=0.0, blocks=40, date="2026-11-28")
    again = answer(replace(case, observed=ObservedSpeeds((ran,))))
    lines = PlanReport(again, advise(again), "this machine", "a model", again.case.work.plan).lines()
    assert "Speed: 1.0 frames a second, as earlier runs on this machine took" in lines
