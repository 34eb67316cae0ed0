"""Pipelines inside one process: the same latents as `local`, bit for bit; memory; failures."""

import gc
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tiny_avatar import CONFIG, PLAN, Noise, NoisePose, random_conditions, random_model
from torch import Tensor

from liveavatar_runtime.dit.kv_cache import ResidentCache
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.pipelines import LayerPipelineExecutor, TimestepPipelineExecutor
from liveavatar_runtime.pipeline.stage_model import PlacedModel, replicate, spread_layers
from liveavatar_runtime.pipeline.transport import StageError
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation, LatentBlock, RunStart, SamplingRequest

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
STAGES = [1, 2, 3, 4]
TIMES = 3
"""How often failures are repeated."""
LIMIT = 60.0
"""Seconds in which a run must end, also where others keep the machine busy."""


@pytest.fixture(scope="module")
def model() -> CausalWanS2V:
    return random_model()


@pytest.fixture(scope="module")
def local(model) -> LocalExecutor:
    return LocalExecutor(model, CPU, torch.float32)


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    gc.collect()
    deadline = time.monotonic() + LIMIT
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def layer_pipeline(model: CausalWanS2V, stages: int, **options: Any) -> LayerPipelineExecutor:
    layers = split_evenly(model.config.num_layers, stages)
    return LayerPipelineExecutor(spread_layers(model, layers, [CPU] * stages), layers, torch.float32, **options)


def timestep_pipeline(model: CausalWanS2V, stages: int, **options: Any) -> TimestepPipelineExecutor:
    return TimestepPipelineExecutor(replicate(model, [CPU] * stages), torch.float32, **options)


@cache
def blocks_of(local: LocalExecutor, plan: ClipPlan) -> list[LatentBlock]:
    return list(local.run(SamplingRequest(random_conditions(), plan)))


EXECUTORS = pytest.mark.parametrize("make", [layer_pipeline, timestep_pipeline])


def assert_same(ours: Sequence[LatentBlock], expected: Sequence[LatentBlock]) -> None:
    assert [(b.index, b.clip) for b in ours] == [(b.index, b.clip) for b in expected]
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a.latents, b.latents), f"block {a.index}"


@EXECUTORS
@pytest.mark.parametrize(
    ("stages", "steps", "infer_frames"),
    [*((stages, steps, 12) for stages in STAGES for steps in (3, 4)), (2, 3, 24), (3, 4, 24), (4, 3, 24)],
)
def test_latents_equal_local(make, model, local, stages, steps, infer_frames):
    """With 12 frames a clip the new sink's block is not finished when block 1 could begin."""
    plan, conditions = replace(PLAN, steps=steps, infer_frames=infer_frames), random_conditions()
    assert_same(list(make(model, stages).run(SamplingRequest(conditions, plan))), blocks_of(local, plan))


@EXECUTORS
@pytest.mark.parametrize(("stages", "actors"), [(2, 2), (4, 4)])
def test_several_speakers(make, model, local, stages, actors):
    conditions = random_conditions(actors=actors)
    expected = list(local.run(SamplingRequest(conditions, PLAN)))
    assert not torch.equal(expected[0].latents, next(local.run(SamplingRequest(random_conditions(), PLAN))).latents)
    assert_same(list(make(model, stages).run(SamplingRequest(conditions, PLAN))), expected)


@EXECUTORS
def test_a_driven_video_is_the_same(model, local, make):
    conditions = replace(random_conditions(), pose=NoisePose())
    expected = list(local.run(SamplingRequest(conditions, PLAN)))
    assert not torch.equal(expected[0].latents, blocks_of(local, PLAN)[0].latents)
    assert_same(list(make(model, 3).run(SamplingRequest(conditions, PLAN))), expected)


@EXECUTORS
def test_the_given_picture_as_reference(make, model, local):
    plan, conditions = replace(PLAN, sink_policy="reference", relative_distance=9), random_conditions()
    assert_same(
        list(make(model, 3).run(SamplingRequest(conditions, plan))), list(local.run(SamplingRequest(conditions, plan)))
    )


@EXECUTORS
def test_a_sink_that_is_renewed_again_and_again(make, model, local):
    plan = replace(PLAN, num_clip=6, infer_frames=12, sink_policy="reanchor", reanchor_clips=2)
    assert len(plan.sink_frames()) > 2
    assert_same(list(make(model, 3).run(SamplingRequest(random_conditions(), plan))), blocks_of(local, plan))


@EXECUTORS
def test_more_devices_than_steps(make, model, local):
    plan, conditions = replace(PLAN, steps=2), random_conditions()
    assert_same(
        list(make(model, 5).run(SamplingRequest(conditions, plan))), list(local.run(SamplingRequest(conditions, plan)))
    )


@EXECUTORS
@pytest.mark.parametrize(("stages", "first"), [(1, 2), (2, 1), (2, 3), (4, 2)])
def test_continue_from_kept_rings_of_any_executor(make, model, local, stages, first):
    conditions, executor = random_conditions(), make(model, stages)
    whole = list(local.run(SamplingRequest(conditions, PLAN, keep_rings=lambda block: block == first - 1)))
    ours = list(executor.run(SamplingRequest(conditions, PLAN, keep_rings=lambda block: block == first - 1)))
    expected, rings = whole[first - 1].rings, ours[first - 1].rings
    assert expected is not None and rings is not None and expected.keys() == rings.keys()
    assert all(torch.equal(rings[name], tensor) for name, tensor in expected.items())
    start = RunStart(first, {0: whole[0].latents[:, :1]}, rings)
    assert_same(list(executor.run(SamplingRequest(conditions, PLAN, start))), whole[first:])


@EXECUTORS
def test_warm_up_equals_local(make, model, local):
    plan, conditions = replace(PLAN, window_blocks=2), random_conditions()
    first_frames = {0: next(local.run(SamplingRequest(conditions, plan))).latents[:, :1]}
    start = RunStart(5, first_frames)
    assert_same(
        list(make(model, 2).run(SamplingRequest(conditions, plan, start))),
        list(local.run(SamplingRequest(conditions, plan, start))),
    )


@EXECUTORS
def test_every_evaluation_is_told_in_the_thread_that_takes_the_blocks(make, model, local):
    conditions = random_conditions()
    told: dict[tuple[int, int], Tensor] = {}
    threads = set()

    def after_step(evaluation: Evaluation) -> None:
        told[evaluation.block, evaluation.step] = evaluation.velocity.clone()
        threads.add(threading.current_thread())

    list(make(model, 3).run(SamplingRequest(conditions, PLAN, after_step=after_step)))
    ours = dict(told)
    told.clear()
    list(local.run(SamplingRequest(conditions, PLAN, after_step=after_step)))
    assert len(ours) == PLAN.evaluations and ours.keys() == told.keys()
    assert all(torch.equal(ours[key], velocity) for key, velocity in told.items())
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("stages", STAGES)
def test_a_layer_stage_holds_its_share_of_weights_and_caches(model, stages):
    held: dict[str, int] = {}

    class CountedCache(ResidentCache):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            tensors = (*self.keys.values(), *self.values.values())
            held[threading.current_thread().name] = sum(t.numel() * t.element_size() for t in tensors)

    executor = layer_pipeline(model, stages, make_cache=CountedCache)
    next(run := executor.run(SamplingRequest(random_conditions(), PLAN)))
    run.close()
    layer_caches = sum(held.values()) / CONFIG.num_layers
    assert len(held) == stages
    for size in held.values():
        assert abs(size - sum(held.values()) / stages) <= layer_caches
    shares = [parameter_bytes(place.model) for place in executor.places]
    # No weight is held twice.
    assert sum(shares) == parameter_bytes(model)


def parameter_bytes(model: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def failing(executor: Any, stage: int, after: int, error: Exception) -> Any:
    """The executor with one stage that raises at its n-th batch of layers."""
    place = executor.places[stage]

    class Failing(CausalWanS2V):
        calls = 0

        def run_layers(self, *arguments: Any) -> Tensor:
            Failing.calls += 1
            if Failing.calls > after:
                raise error
            return super().run_layers(*arguments)

    broken = Failing.__new__(Failing)
    broken.__dict__.update(place.model.__dict__)
    places = [PlacedModel(broken, place.device) if n == stage else p for n, p in enumerate(executor.places)]
    return replace(executor, places=places)


SHORT = replace(PLAN, num_clip=1)


@EXECUTORS
@pytest.mark.parametrize(("stage", "after"), [(0, 0), (1, 3), (2, 3)])
def test_a_stage_that_raises_ends_the_run_and_names_its_device(make, model, local, stage, after):
    for _ in range(TIMES):
        executor = failing(make(model, 3), stage, after, ArithmeticError("card on fire"))
        started = time.monotonic()
        with pytest.raises(StageError, match=rf"stage {stage} on cpu failed: ArithmeticError: card on fire") as caught:
            list(executor.run(SamplingRequest(random_conditions(), replace(PLAN, num_clip=2))))
        assert time.monotonic() - started < LIMIT
        assert isinstance(caught.value.__cause__, ArithmeticError)
    assert_same(list(make(model, 3).run(SamplingRequest(random_conditions(), SHORT))), blocks_of(local, SHORT))


def test_a_full_device_is_told_as_such(model):
    executor = failing(layer_pipeline(model, 2), 1, 2, torch.cuda.OutOfMemoryError("no room for 1 GiB"))
    with pytest.raises(torch.cuda.OutOfMemoryError, match="stage 1 on cpu.*no room for 1 GiB. What helps") as caught:
        list(executor.run(SamplingRequest(random_conditions(), SHORT)))
    assert isinstance(caught.value, StageError)


@EXECUTORS
def test_an_exception_of_the_callback_stops_all_stages(make, model):
    class Interrupted(Exception):
        pass

    def after_step(evaluation: Evaluation) -> None:
        if evaluation.block == 1:
            raise Interrupted

    for _ in range(TIMES):
        run = make(model, 3).run(SamplingRequest(random_conditions(), PLAN, after_step=after_step))
        with pytest.raises(Interrupted):
            list(run)
        assert list(run) == []


@EXECUTORS
def test_a_reader_that_stops_early_leaves_no_thread(make, model):
    for _ in range(TIMES):
        before = threading.active_count()
        run = make(model, 3).run(SamplingRequest(random_conditions(), replace(PLAN, num_clip=1000)))
        assert next(run).index == 0
        started = time.monotonic()
        run.close()
        run.close()
        assert time.monotonic() - started < LIMIT and threading.active_count() == before
        assert list(run) == []


@EXECUTORS
def test_a_forgotten_run_ends(make, model):
    run = make(model, 3).run(SamplingRequest(random_conditions(), replace(PLAN, num_clip=1000)))
    next(run)
    del run


@EXECUTORS
def test_nothing_starts_before_the_first_block_is_asked_for(make, model):
    before = threading.active_count()
    run = make(model, 3).run(SamplingRequest(random_conditions(), PLAN))
    assert threading.active_count() == before
    run.close()


@EXECUTORS
def test_stages_wait_for_a_slow_reader(make, model):
    """Of a thousand blocks only as many are made ahead as the queues hold."""
    plan = replace(PLAN, num_clip=1000, steps=1)
    asked: list[int] = []

    class Counted(Noise):
        def frames(self, first: int, count: int) -> Tensor:
            asked.append(first)
            return super().frames(first, count)

    run = make(model, 2).run(SamplingRequest(replace(random_conditions(), audio=Counted()), plan))
    next(run)
    time.sleep(1)
    made = len(asked)
    run.close()
    assert made < 40


def test_threads_for_computation_are_shared_and_put_back(model):
    torch.set_num_threads(2)
    used: set[int] = set()

    class Watched(ResidentCache):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            used.add(torch.get_num_threads())

    list(
        layer_pipeline(model, 2, make_cache=Watched).run(
            SamplingRequest(random_conditions(), replace(PLAN, num_clip=1))
        )
    )
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    try:
        assert used == {1}
        assert torch.get_num_threads() == 2 and later == [2]
    finally:
        torch.set_num_threads(1)


def test_ranges_and_places_must_match(model):
    executor = layer_pipeline(model, 2)
    with pytest.raises(InputError, match="2 places for 1"):
        replace(executor, layers=(range(5),))
