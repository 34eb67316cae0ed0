"""Scripts: prompts, pictures, seeds and motion strength that change in the course of a video."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from tiny_avatar import PLAN, SCRIPT, SCRIPTED, random_model, scripted_conditions
from torch import Tensor

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.pipelines import LayerPipelineExecutor, TimestepPipelineExecutor
from liveavatar_runtime.pipeline.stage_model import replicate, spread_layers
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Executor, RunStart, SamplingRequest
from liveavatar_runtime.sampling.script import Change, Script

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
BPC = SCRIPTED.blocks_per_clip


@pytest.fixture(scope="module")
def executors() -> dict[str, Executor]:
    model = random_model()
    layers = split_evenly(model.config.num_layers, 3)
    return {
        "local": LocalExecutor(model, CPU, torch.float32),
        "layer_pipeline": LayerPipelineExecutor(spread_layers(model, layers, [CPU] * 3), layers, torch.float32),
        "timestep_pipeline": TimestepPipelineExecutor(replicate(model, [CPU] * 4), torch.float32),
    }


@cache
def _sampled(executor: Executor, plan: ClipPlan) -> tuple[Tensor, ...]:
    return tuple(latents_of(executor, plan, scripted_conditions(plan=plan)))


def latents_of(
    executor: Executor, plan: ClipPlan, conditions: Conditions, start: RunStart | None = None
) -> list[Tensor]:
    return [block.latents for block in executor.run(SamplingRequest(conditions, plan, start or RunStart()))]


def equal_until(ours: Sequence[Tensor], others: Sequence[Tensor]) -> int:
    """Blocks from the first one that are equal bit for bit."""
    return next((n for n, pair in enumerate(zip(ours, others, strict=True)) if not torch.equal(*pair)), len(ours))


def test_what_is_in_force():
    assert [SCRIPT.text_since(block) for block in range(10)] == [0, 0, 0, 3, 3, 3, 3, 3, 8, 8]
    assert [SCRIPT.picture_since(block) for block in (5, 6, 11)] == [0, 6, 6]
    assert [SCRIPT.seed_at(block, 7) for block in (4, 5, 11)] == [7, 70, 70]
    assert [SCRIPT.motion_at(block) for block in (4, 5, 6)] == [1.0, 0.5, 1.0]
    for changes in ((3, 2), (2, 2)):
        with pytest.raises(InputError, match="must ascend"):
            Script(tuple(Change(block=block) for block in changes))
    with pytest.raises(InputError, match="no change"):
        Change(block=0)
    with pytest.raises(InputError, match="motion strength is 4"):
        Change(block=1, motion=4.0)


@pytest.mark.parametrize("policy", ["adaptive", "reference", "reanchor"])
def test_sinks_follow_the_picture_in_force(policy):
    plan = replace(SCRIPTED, sink_policy=policy, reanchor_clips=1, script=Script((Change(block=5, picture=True),)))
    frames = [plan.sink_source(block).frame_of for block in range(12)]
    # A picture is shown until the end of the clip that it begins in, then the first frame that was made with it.
    assert (
        frames
        == {
            "adaptive": [None, None, 0, 0, 0, None, 5, 5, 5, 5, 5, 5],
            "reference": [None] * 12,
            "reanchor": [None, None, 0, 0, 2, None, 5, 5, 6, 6, 8, 8],
        }[policy]
    )


@pytest.mark.parametrize("name", ["layer_pipeline", "timestep_pipeline"])
@pytest.mark.parametrize("policy", ["adaptive", "reference"])
def test_every_executor_gives_the_same_latents(executors, name, policy):
    plan = replace(SCRIPTED, sink_policy=policy)
    assert equal_until(_sampled(executors[name], plan), _sampled(executors["local"], plan)) == plan.num_blocks


def test_blocks_of_a_batch_have_their_own_prompts(executors):
    batched = LocalExecutor(executors["local"].model, CPU, torch.float32, batched=True)
    for ours, expected in zip(_sampled(batched, SCRIPTED), _sampled(executors["local"], SCRIPTED), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [Change(block=3, text=True), Change(block=3, picture=True), Change(block=3, seed=9), Change(block=3, motion=0.0)],
)
def test_a_change_changes_nothing_before_it(executors, change):
    """And a seed leaves the rest of its clip's noise where it was."""
    plan = replace(SCRIPTED, num_clip=3, script=Script((change,)))
    with_it, without = (_sampled(executors["local"], p) for p in (plan, replace(plan, script=Script())))
    assert equal_until(with_it, without) == 3


def test_the_same_seed_motion_and_prompt_change_nothing(executors):
    plan = replace(SCRIPTED, num_clip=2, script=Script((Change(block=2, seed=PLAN.seed, motion=1.0),)))
    assert (
        equal_until(_sampled(executors["local"], plan), _sampled(executors["local"], replace(plan, script=Script())))
        == 4
    )


@pytest.mark.parametrize("name", ["local", "layer_pipeline", "timestep_pipeline"])
@pytest.mark.parametrize("first", [3, 4, 7])
def test_a_run_goes_on_within_a_script_from_kept_rings(executors, name, first):
    """Also just where another prompt begins, of which the state before knows nothing."""
    executor, conditions = executors[name], scripted_conditions()
    whole = _sampled(executor, SCRIPTED)
    request = SamplingRequest(conditions, SCRIPTED, keep_rings=lambda block: block == first - 1)
    rings = next(block.rings for block in executor.run(request) if block.index == first - 1)
    frames = {source: whole[source][:, :1] for source in SCRIPTED.sink_frames(first) if source < first}
    rest = latents_of(executor, SCRIPTED, conditions, RunStart(first, frames, rings))
    assert equal_until(rest, whole[first:]) == len(rest) == SCRIPTED.num_blocks - first
