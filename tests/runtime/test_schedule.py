"""The order of work of the pipelines: proved for every small number of stages, steps and blocks."""

import itertools
from collections import deque

import pytest

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.pipeline.schedule import (
    LayerSchedule,
    Operation,
    PipelineSchedule,
    Span,
    TimestepSchedule,
    split_steps,
)

SPANS = [
    Span(0, 9, {0: None}),
    *(Span(0, stop, {0: None, renew: 0}) for renew in (1, 2, 4) for stop in (renew + 1, 9)),
    Span(0, 12, {0: None, 2: 0, 5: 3, 8: 7}),
    Span(3, 11, {3: None}),
    Span(3, 11, {3: None, 4: 0}),
    Span(5, 9, {5: 0}),
]


def layer_schedule(stages: int, steps: int) -> LayerSchedule:
    return LayerSchedule(tuple(range(2 * n, 2 * n + 2) for n in range(stages)), steps)


def timestep_schedule(stages: int, steps: int) -> TimestepSchedule:
    return TimestepSchedule(5, split_steps(steps, stages))


def all_operations(schedule: PipelineSchedule, span: Span) -> list[list[Operation]]:
    return [list(schedule.operations(stage, span)) for stage in range(len(schedule.parts))]


CASES = [
    *((layer_schedule, stages, steps) for stages, steps in itertools.product(range(1, 10), range(1, 9))),
    *((timestep_schedule, stages, steps) for stages, steps in itertools.product(range(1, 7), range(1, 9))),
]


@pytest.mark.parametrize(("make", "stages", "steps"), CASES)
def test_order_of_work(make, stages, steps):
    schedule = make(stages, steps)
    for span in SPANS:
        check_order(schedule, span)


def check_order(schedule: PipelineSchedule, span: Span) -> None:
    work = all_operations(schedule, span)
    for stage, operations in enumerate(work):
        ticks = [operation.tick for operation in operations]
        assert ticks == sorted(set(ticks)), "one operation a tick"
        evaluated = [(o.block, o.step) for o in operations if o.kind == "evaluate"]
        own = schedule.parts[stage].steps
        assert sorted(evaluated) == list(itertools.product(range(span.first, span.stop), own)), "each exactly once"
        assert [o.block for o in operations if o.kind == "sink"] == list(span.sinks)
    check_dependencies(schedule, span, work)


def check_dependencies(schedule: PipelineSchedule, span: Span, work: list[list[Operation]]) -> None:
    at = {(s, o.kind, o.block, o.step): o.tick for s, operations in enumerate(work) for o in operations}
    for (stage, kind, block, step), tick in at.items():
        path = schedule.path(step)
        if kind == "evaluate":
            assert stage in path
            if stage != path[0]:
                assert at[stage - 1, kind, block, step] < tick, "the layers before"
            elif step:
                assert at[schedule.path(step - 1)[-1], kind, block, step - 1] < tick, "the step before"
            if block > span.first:
                assert at[stage, kind, block - 1, step] < tick, "the block before at this step"
            assert at[stage, "sink", max(b for b in span.sinks if b <= block), 0] < tick, "the sink"
        else:
            if stage and len(path) > 1:
                assert at[stage - 1, kind, block, step] < tick, "the sink's layers before"
            elif (source := span.sinks[block]) is not None and source >= span.first:
                last = schedule.steps - 1
                assert at[schedule.path(last)[-1], "evaluate", source, last] < tick, "the picture's block is finished"


@pytest.mark.parametrize(("stages", "steps"), list(itertools.product(range(1, 10), range(1, 9))))
def test_every_stage_of_the_layer_pipeline_is_always_busy(stages, steps):
    schedule, blocks = layer_schedule(stages, steps), 40
    for operations in all_operations(schedule, Span(0, blocks, {0: None})):
        filling = schedule.stride * (steps - 1)
        steady = [o.tick for o in operations if filling <= o.tick - operations[1].tick < steps * blocks]
        assert steady == list(range(steady[0], steady[0] + len(steady)))


def test_the_formula_of_four_stages_and_four_steps():
    first = all_operations(layer_schedule(4, 4), Span(0, 12, {0: None}))[0]
    sink, *evaluations = first
    assert sink.tick == 0
    assert all(o.tick - 4 == 4 * o.block + 5 * o.step for o in evaluations)


def test_one_stage_with_one_device_is_the_local_order():
    for make in (layer_schedule, timestep_schedule):
        work = all_operations(make(1, 4), Span(0, 3, {0: None}))[0]
        assert [(o.block, o.step) for o in work[1:]] == list(itertools.product(range(3), range(4)))


@pytest.mark.parametrize(("make", "stages", "steps"), CASES)
def test_blocks_in_flight_are_bounded_and_queues_of_that_length_never_lock(make, stages, steps):
    """Stages run greedily in their orders over links that hold `blocks_in_flight` latents and 1 hidden state."""
    schedule = make(stages, steps)
    span = Span(0, 12, {0: None, 3: 0})
    work = [deque(operations) for operations in all_operations(schedule, span)]
    done: set[tuple[int, str, int, int]] = set()
    while any(work):
        before = sum(map(len, work))
        for stage, operations in enumerate(work):
            while operations and is_ready(schedule, stage, operations[0], done):
                operation = operations.popleft()
                done.add((stage, operation.kind, operation.block, operation.step))
        begun = {block for _, kind, block, _ in done if kind == "evaluate"}
        last = schedule.steps - 1
        finished = {b for s, kind, b, step in done if (s, step, kind) == (schedule.path(last)[-1], last, "evaluate")}
        assert len(begun - finished) <= schedule.blocks_in_flight() + 1
        assert sum(map(len, work)) < before, "stages wait for each other"


def is_ready(schedule: PipelineSchedule, stage: int, operation: Operation, done: set) -> bool:
    block, step, path = operation.block, operation.step, schedule.path(operation.step)
    last = schedule.steps - 1
    if operation.kind == "sink":
        if len(path) > 1 and stage:
            return (stage - 1, "sink", block, 0) in done
        return block == 0 or (schedule.path(last)[-1], "evaluate", 0, last) in done
    if stage != path[0]:
        return (stage - 1, "evaluate", block, step) in done
    return not step or (schedule.path(step - 1)[-1], "evaluate", block, step - 1) in done


@pytest.mark.parametrize(("steps", "devices"), list(itertools.product(range(1, 9), range(1, 7))))
def test_steps_are_split_evenly(steps, devices):
    parts = split_steps(steps, devices)
    assert [step for part in parts for step in part] == list(range(steps))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts) == min(steps, devices)


def test_ranges_with_holes_are_refused():
    with pytest.raises(InputError, match="layers"):
        LayerSchedule((range(2), range(3, 4)), 4)
    with pytest.raises(InputError, match="layers"):
        LayerSchedule((range(2), range(2, 2)), 4)
    with pytest.raises(InputError, match="steps"):
        TimestepSchedule(4, (range(1), range(2, 3)))
