"""The block loop: batches of blocks, continuing from kept rings, warming up, sinks that change."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from liveavatar_runtime.config import DEMO
from liveavatar_runtime.dit.kv_cache import CacheShape
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.planning.memory import ring_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation, LatentBlock, RunStart, SamplingRequest

CPU = torch.device("cpu")
PLAN = ClipPlan(num_clip=3, infer_frames=24, width=64, height=64, keep_aspect=False, relative_distance=None)


@dataclass(frozen=True)
class Noise:
    """Voice features by frame from a seed, [actors, layers, audio_dim, frames]."""

    actors: int = 1

    def frames(self, first: int, count: int) -> Tensor:
        features = [
            torch.randn(
                self.actors, DEMO.audio_layers, DEMO.audio_dim, 1, generator=torch.Generator().manual_seed(first + n)
            )
            for n in range(count)
        ]
        return torch.cat(features, dim=-1)


@pytest.fixture(scope="module")
def executor() -> LocalExecutor:
    torch.manual_seed(3)
    model = CausalWanS2V(DEMO)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 / max(1, parameter[0].numel()) ** 0.5))
    return LocalExecutor(model.eval(), CPU, torch.float32)


@pytest.fixture(scope="module")
def conditions() -> Conditions:
    generator = torch.Generator().manual_seed(4)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    return Conditions(
        text=random(5, DEMO.text_dim), reference=random(16, 1, 8, 8), motion=random(16, 19, 8, 8), audio=Noise()
    )


def latents(blocks: list[LatentBlock]) -> Tensor:
    return torch.stack([block.latents for block in blocks])


@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize("infer_frames", [12, 24, 48])
@pytest.mark.parametrize("policy", ["adaptive", "reference"])
def test_a_batch_of_blocks_gives_the_same_latents(executor, conditions, steps, infer_frames, policy):
    """Also where the new sink's block is not finished when the next block could begin (12 frames a clip)."""
    plan = replace(PLAN, steps=steps, infer_frames=infer_frames, sink_policy=policy)
    one_by_one = list(executor.run(SamplingRequest(conditions, plan)))
    batched = list(replace(executor, batched=True).run(SamplingRequest(conditions, plan)))
    assert [b.index for b in batched] == list(range(plan.num_blocks))
    torch.testing.assert_close(latents(batched), latents(one_by_one), atol=1e-5, rtol=0)


def test_a_batch_runs_the_model_once_a_block(executor, conditions):
    calls = []
    layer = executor.model.blocks[0]
    handle = layer.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    plan = replace(PLAN, sink_policy="reference")
    try:
        list(replace(executor, batched=True).run(SamplingRequest(conditions, plan)))
    finally:
        handle.remove()
    sink, *batches = calls
    assert sink == 1 and sum(batches) == plan.evaluations
    assert len(batches) == plan.num_blocks + plan.steps - 1


@pytest.mark.parametrize("actors", [2, 4])
def test_the_voices_of_several_speakers_batched(executor, conditions, actors):
    masks = torch.zeros(actors, 3, 4, 4)
    for actor, columns in enumerate(masks.unflatten(3, (actors, -1)).unbind(3)):
        columns[actor] = 1
    several = replace(conditions, audio=Noise(actors=actors), actor_masks=masks)
    assert masks.sum(dim=0).unique().tolist() == [1]
    expected = latents(list(executor.run(SamplingRequest(several, PLAN))))
    assert not torch.allclose(expected, latents(list(executor.run(SamplingRequest(conditions, PLAN)))))
    batched = latents(list(replace(executor, batched=True).run(SamplingRequest(several, PLAN))))
    torch.testing.assert_close(batched, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window_blocks", [1, 3, 4])
@pytest.mark.parametrize("first", [1, 3, 5])
@pytest.mark.parametrize("batched", [False, True])
def test_kept_rings_continue_exactly(executor, conditions, window_blocks, first, batched):
    plan = replace(PLAN, window_blocks=window_blocks)
    executor = replace(executor, batched=batched)
    whole = list(executor.run(SamplingRequest(conditions, plan, keep_rings=lambda block: block == first - 1)))
    kept = whole[first - 1].rings
    assert kept is not None and all(block.rings is None for block in whole if block.index != first - 1)
    start = RunStart(first, {0: whole[0].latents[:, :1]}, kept)
    rest = list(executor.run(SamplingRequest(conditions, plan, start)))
    if batched:
        # Rows of a batch round differently when there are fewer of them.
        torch.testing.assert_close(latents(rest), latents(whole[first:]), atol=1e-5, rtol=0)
    else:
        assert torch.equal(latents(rest), latents(whole[first:]))


def test_the_size_of_kept_rings_is_known_beforehand(executor, conditions):
    *_, last = executor.run(SamplingRequest(conditions, PLAN, keep_rings=lambda block: block == PLAN.num_blocks - 1))
    assert ring_bytes(Workload(DEMO, PLAN, torch.float32)) == sum(tensor.nbytes for tensor in last.rings.values())


def test_the_state_survives_an_interruption_inside_the_next_block(executor, conditions):
    def stop(evaluation: Evaluation) -> None:
        if (evaluation.block, evaluation.step) == (4, 2):
            raise InterruptedError

    whole = list(executor.run(SamplingRequest(conditions, PLAN)))
    run, finished = executor.run(SamplingRequest(conditions, PLAN, after_step=stop)), []
    with pytest.raises(InterruptedError):
        for block in run:
            finished.append(block)
    assert len(finished) == 4
    start = RunStart(4, {0: finished[0].latents[:, :1]}, run.rings())
    run.close()
    assert run.rings() is None
    assert torch.equal(latents(list(executor.run(SamplingRequest(conditions, PLAN, start)))), latents(whole[4:]))


def test_without_rings_the_run_warms_up(executor, conditions):
    """Exactly, when the warm-up reaches the start; close to it later, since the ring was not filled from the start."""
    plan = replace(PLAN, num_clip=8, infer_frames=12, window_blocks=2)
    whole = list(executor.run(SamplingRequest(conditions, plan)))
    first_frames = {0: whole[0].latents[:, :1]}
    seen: list[int] = []
    early = executor.run(SamplingRequest(conditions, plan, RunStart(2, first_frames)))
    assert torch.equal(latents(list(early)), latents(whole[2:]))
    late = executor.run(SamplingRequest(conditions, plan, RunStart(6, first_frames), lambda e: seen.append(e.block)))
    rest = list(late)
    assert [block.index for block in rest] == [6, 7] and seen[0] == 4
    assert not torch.equal(rest[0].latents, whole[6].latents)
    assert (rest[0].latents - whole[6].latents).std() < 0.5 * whole[6].latents.std()


def test_a_start_that_lacks_what_it_needs_is_refused(executor, conditions):
    with pytest.raises(InputError, match="first latent frame of block 0 is needed"):
        next(executor.run(SamplingRequest(conditions, replace(PLAN, window_blocks=1), RunStart(5))))


def test_rings_of_another_plan_are_refused(executor, conditions):
    rings = next(executor.run(SamplingRequest(conditions, PLAN, keep_rings=lambda _: True))).rings
    first_frames = {0: torch.zeros(16, 1, 8, 8)}
    with pytest.raises(InputError, match=r"saved ring is of another plan: step.0.layer.0.keys is .*expected"):
        next(executor.run(SamplingRequest(conditions, PLAN, RunStart(4, first_frames, rings))))


def test_slots_and_windows():
    shape = CacheShape(
        steps=4, window_blocks=4, block_tokens=10, reference_tokens=3, motion_tokens=2, heads=1, head_dim=2
    )
    assert [shape.warm_up_start(block) for block in (0, 3, 4, 7, 8, 11, 12)] == [0, 0, 0, 0, 4, 4, 8]
    assert shape.kept_blocks(9) == range(7, 10) and shape.kept_blocks(0) == range(1)
    assert shape.valid_tokens(8, first_block=8) == 5 + 10 and shape.valid_tokens(30, first_block=8) == 5 + 40
