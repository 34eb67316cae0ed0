"""What `auto` stands for with several devices of given speed and memory."""

from dataclasses import replace

import pytest

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.executors.choice import Choice
from liveavatar_runtime.executors.choice import choose_executor as choose_among
from liveavatar_runtime.executors.table import resolve
from liveavatar_runtime.pipeline.schedule import LayerSchedule
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.machines import Machines
from liveavatar_runtime.planning.measured import Timed, with_measured
from liveavatar_runtime.planning.memory import ANYWHERE, CacheChoice, working_bytes
from liveavatar_runtime.planning.stages import plan_layers
from liveavatar_runtime.planning.workload import PartCosts, Workload
from liveavatar_runtime.sampling.plan import ClipPlan

GIB = 2**30
LARGE = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))
FEW_LAYERS = replace(LARGE, config=replace(WAN_S2V_14B, num_layers=5, audio_inject_layers=()))
DECODER_BYTES = 2.4 * GIB
CARD = PartCosts(layer=0.03, voice=0.003, first=0.001, last=0.001)


def timed(*times: float, work: Workload = LARGE) -> Timed:
    """Cards that are so many times as slow as CARD."""
    return with_measured(work, [PartCosts(*(t * part for part in vars(CARD).values())) for t in times])


def places(found: Timed, *gib: float, decoder: int | None = 0, one_device: bool = False, ram: float = 128) -> Machines:
    """Cards with so much memory for sampling, and for decoding where that is. `ram`: of all, the weights' too."""
    assert found.rate is not None
    memory = gib if len(gib) > 1 else gib * len(found.speeds)
    shared_by = len(memory) if one_device else 1
    devices = [
        Device(
            memory=size * shared_by * GIB,
            reserve=0,
            occupied=DECODER_BYTES if number == decoder else 0,
            shared_by=shared_by,
            flops=speed * found.rate * shared_by,
            ram=ram * GIB,
        )
        for number, (size, speed) in enumerate(zip(memory, found.speeds, strict=True))
    ]
    return Machines.here(devices, decoder)


def choose_executor(work: Workload, machines: Machines, caches: CacheChoice) -> Choice:
    return choose_among(work, machines, DECODER_BYTES, caches)


def test_cards_that_only_hold_a_part_get_the_layer_pipeline():
    found = timed(1, 1, 1, 1)
    choice = choose_executor(found.work, places(found, 22), ANYWHERE)
    assert choice.executor == "layer_pipeline"
    assert str(choice).startswith("auto chose layer_pipeline: 3.") and str(choice).endswith(" x local, 21.5 GiB a card")


def test_equally_fast_pipelines_are_told_apart_by_habit():
    found = timed(1, 1)
    assert choose_executor(found.work, places(found, 140), ANYWHERE).executor == "layer_pipeline"


def test_layers_that_cannot_be_shared_evenly_leave_the_steps_to_be_shared():
    found = timed(1, 1, 1, 1, work=FEW_LAYERS)
    choice = choose_executor(found.work, places(found, 80, decoder=None), ANYWHERE)
    assert choice.executor == "timestep_pipeline" and choice.why.startswith("4.0 x local")


def test_steps_that_do_not_fit_are_left_to_the_layers():
    found = timed(1, 1, 1, 1, work=FEW_LAYERS)
    whole = FEW_LAYERS.weights(range(5)) / GIB
    assert choose_executor(found.work, places(found, 0.9 * whole), ANYWHERE).executor == "layer_pipeline"


@pytest.mark.parametrize(("slower", "expected"), [(3, "layer_pipeline"), (100, "local")])
def test_a_card_that_is_much_too_slow_stays_idle(slower, expected):
    found = timed(1, slower)
    choice = choose_executor(found.work, places(found, 100), ANYWHERE)
    assert choice.executor == expected
    gain = float(choice.why.split(" x ")[0])
    assert gain == pytest.approx(1 + 1 / slower, abs=0.1) if expected != "local" else gain > 1.5


def test_with_one_device_there_is_nothing_to_win_and_all_is_as_ever():
    found = timed(3, 3, 3)
    choice = choose_executor(found.work, places(found, 60, one_device=True), ANYWHERE)
    assert choice.executor == "layer_pipeline"
    assert str(choice).startswith("auto chose layer_pipeline: the stages share one device, ")


def test_more_devices_than_layers_share_the_steps():
    found = timed(*[1] * 6, work=FEW_LAYERS)
    assert choose_executor(found.work, places(found, 80), ANYWHERE).executor == "timestep_pipeline"


def test_local_where_only_the_first_card_has_the_memory():
    found = timed(1, 1)
    choice = choose_executor(found.work, places(found, 48, 1, ram=200), ANYWHERE)
    assert choice.executor == "local" and choice.why.startswith("no pipeline fits, ")


def test_a_pipeline_where_the_caches_of_all_layers_fit_nowhere():
    found = timed(1, 1, 1, 1)
    choice = choose_executor(found.work, places(found, 22, ram=1), ANYWHERE)
    assert choice.executor == "layer_pipeline" and choice.why.startswith("local does not fit, ")


def test_what_fits_nowhere_is_left_to_the_planning_that_says_so():
    found = timed(1, 1)
    choice = choose_executor(found.work, places(found, 2), ANYWHERE)
    assert choice.executor == "layer_pipeline" and choice.why.startswith("nothing fits, ")


def test_the_users_choice_for_the_caches_counts():
    found = timed(1, 1)
    free, ram = (choose_executor(found.work, places(found, 22), CacheChoice(c)) for c in ("auto", "ram"))
    assert free == ram and "nothing fits" not in free.why
    assert choose_executor(found.work, places(found, 22), CacheChoice("device")).why.startswith("nothing")


@pytest.mark.parametrize("decoder", [None, 0, 1])
def test_decoding_takes_time_and_memory_where_it_is(decoder):
    found = timed(1, 1)
    choice = choose_executor(found.work, places(found, 140, decoder=decoder), ANYWHERE)
    layers, _ = plan_layers(found.work, [Device(flops=s) for s in found.speeds], decodes_first=decoder == 0)
    blocks = LayerSchedule(tuple(layers), 4).blocks_at_a_stage
    held = [LARGE.weights(part) + working_bytes(LARGE.of_stage(part, range(4), blocks)) for part in layers]
    most = max(size + DECODER_BYTES * (number == decoder) for number, size in enumerate(held))
    assert choice.executor == "layer_pipeline" and choice.why.endswith(f" x local, {most / GIB:.1f} GiB a card")


def test_what_a_segment_of_a_long_plan_is_changes_nothing():
    found = timed(1, 1, 1, 1)
    # The noise of a clip is made at once, so its frames count.
    whole = replace(found.work, plan=replace(LARGE.plan, infer_frames=480))
    part = replace(whole, plan=replace(whole.plan, num_clip=700, segment_clips=100, segment_index=6))
    assert choose_executor(part, places(found, 22), ANYWHERE) == choose_executor(whole, places(found, 22), ANYWHERE)


def test_one_named_device_is_local_and_several_wait_for_the_plan():
    assert [resolve("auto", []), resolve("fsdp", [])] == ["local", "fsdp"]
