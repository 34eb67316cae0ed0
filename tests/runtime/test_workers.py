"""Runs in worker processes equal those in this one, bit for bit."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from tiny_avatar import PLAN, SCRIPTED, Noise, NoisePose, random_conditions, random_model, scripted_conditions
from wire_peers import LOOPBACK, RawClient
from worker_group import local_workers, open_descriptors, processes_below, save_model

from liveavatar_runtime.dit.kv_cache import ResidentCache
from liveavatar_runtime.duration import LATENT_FRAMES_PER_BLOCK
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import (
    Evaluation,
    Executor,
    KeepRings,
    LatentBlock,
    RunStart,
    SamplingRequest,
    SamplingRun,
)
from liveavatar_runtime.sampling.script import Change, Script
from liveavatar_runtime.spool.chain import chain_of
from liveavatar_runtime.spool.latent_stream import LatentStream, Storage
from liveavatar_runtime.spool.spool import Spool
from liveavatar_workers.client.decoder import RemoteDecoder
from liveavatar_workers.client.executor import RemoteExecutor
from liveavatar_workers.client.groups import LocalWorkers
from liveavatar_workers.messages import Block, More, Ready, RunRefused, Voice, WantVoice
from liveavatar_workers.run_request import RunRequest

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
StartWorkers = Callable[..., LocalWorkers]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=["fsdp", "layer_pipeline", "timestep_pipeline"])
def workers(model_folder: Path, request: pytest.FixtureRequest) -> Iterator[LocalWorkers]:
    """Two ranks with each executor; all tests run with one before the next is started. Their weights are misaligned."""
    group = local_workers(model_folder, 2, "--executor", request.param)
    yield group
    group.close()


@pytest.fixture(scope="module")
def remote(workers: LocalWorkers) -> RemoteExecutor:
    return RemoteExecutor(workers)


@pytest.fixture(scope="module")
def local() -> LocalExecutor:
    return LocalExecutor(random_model(), CPU, torch.float32)


def weight_bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def assert_same(executor: Executor, reference: Executor, plan=PLAN, actors: int = 1) -> None:
    conditions = random_conditions(plan=plan, actors=actors)
    expected, got = (
        list(reference.run(SamplingRequest(conditions, plan))),
        list(executor.run(SamplingRequest(conditions, plan))),
    )
    assert [(b.index, b.clip) for b in got] == [(b.index, b.clip) for b in expected]
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.latents, other.latents), f"block {one.index}"


@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize("actors", [1, 2])
def test_two_ranks_give_the_same_latents(remote: RemoteExecutor, local: LocalExecutor, steps: int, actors: int) -> None:
    assert_same(remote, local, replace(PLAN, steps=steps), actors)


def test_four_speakers_over_three_clips(remote: RemoteExecutor, local: LocalExecutor) -> None:
    assert PLAN.num_clip == 3
    assert_same(remote, local, PLAN, 4)


@pytest.mark.parametrize(
    ("executor", "ranks"), [("fsdp", 1), ("fsdp", 3), ("layer_pipeline", 4), ("timestep_pipeline", 3)]
)
def test_other_numbers_of_ranks_give_the_same_latents(
    start_workers: StartWorkers, model_folder: Path, local: LocalExecutor, executor: str, ranks: int
) -> None:
    group = start_workers(model_folder, ranks, "--executor", executor)
    assert_same(RemoteExecutor(group), local)
    about = group.connection(lambda: None).about.ranks
    held, caches = [rank.bytes for rank in about], [rank.caches for rank in about]
    shape = local.model.cache_shape(PLAN.grid, PLAN.steps, PLAN.window_blocks, LATENT_FRAMES_PER_BLOCK)
    whole_cache = ResidentCache(shape, local.model.layers, torch.float32, CPU).nbytes
    whole, layers = weight_bytes(local.model), weight_bytes(local.model.blocks)
    voice = weight_bytes(local.model.audio_injector)
    if executor == "fsdp":
        # FSDP cuts tensors into equal numbers of rows, so small ones leave a remainder on the first ranks.
        shares = [(size - (whole - layers - voice)) / (layers + voice) for size in held]
        assert shares == pytest.approx([1 / ranks] * ranks, abs=0.03)
        assert caches == [whole_cache] * ranks
    elif executor == "layer_pipeline":
        assert sum(held) == whole
        assert all(abs(size - layers / ranks) < layers / len(local.model.blocks) + voice for size in held[1:])
        one_layer = whole_cache / len(local.model.blocks)
        assert sum(caches) == whole_cache
        assert all(abs(size - whole_cache / ranks) <= one_layer for size in caches)
    else:
        assert held == [whole] * ranks
        assert sum(caches) == whole_cache and max(caches) <= whole_cache * 2 / PLAN.steps


def test_a_driven_video_gives_the_same_latents(remote: RemoteExecutor, local: LocalExecutor) -> None:
    request = SamplingRequest(replace(random_conditions(), pose=NoisePose()), PLAN)
    expected = list(local.run(request))
    assert not torch.equal(
        expected[0].latents, next(local.run(replace(request, conditions=random_conditions()))).latents
    )
    for one, other in zip(remote.run(request), expected, strict=True):
        assert torch.equal(one.latents, other.latents), f"block {one.index}"


def test_a_script_gives_the_same_latents(remote: RemoteExecutor, local: LocalExecutor) -> None:
    request = SamplingRequest(scripted_conditions(), SCRIPTED)
    for one, other in zip(remote.run(request), local.run(request), strict=True):
        assert torch.equal(one.latents, other.latents), f"block {one.index}"


def test_a_branch_goes_on_from_what_another_executor_has_kept(
    remote: RemoteExecutor, local: LocalExecutor, tmp_path: Path
) -> None:
    """A prompt that begins within the third clip: of the branch only that one and what follows is sampled."""
    branch = replace(PLAN, num_clip=4, infer_frames=24, script=Script((Change(block=5, text=True, seed=8),)))
    sampled: list[int] = []

    def latents(executor: Executor, plan: ClipPlan, folder: str) -> list[torch.Tensor]:
        conditions = scripted_conditions(plan=plan)

        def start(part: ClipPlan, first: RunStart, keep: KeepRings) -> SamplingRun:
            return executor.run(SamplingRequest(conditions, part, first, lambda e: sampled.append(e.block), keep))

        spool = Spool(tmp_path / folder, chain=chain_of(plan, conditions))
        return [b.latents for b in LatentStream(plan, conditions.motion[:, -7:], start, Storage(spool))]

    latents(local, replace(branch, script=Script()), "spool")
    sampled.clear()
    ours = latents(remote, branch, "spool")
    assert set(sampled) == {4, 5, 6, 7}
    assert all(torch.equal(*pair) for pair in zip(ours, latents(local, branch, "fresh"), strict=True))


def test_steps_and_kept_rings_arrive(remote: RemoteExecutor, local: LocalExecutor) -> None:
    conditions = random_conditions()
    steps: tuple[list[Evaluation], list[Evaluation]] = ([], [])
    runs = [
        e.run(SamplingRequest(conditions, PLAN, RunStart(), s.append, lambda b: b == 2))
        for e, s in zip((remote, local), steps, strict=True)
    ]
    blocks = [list(run) for run in runs]
    assert [b.index for b in blocks[0] if b.rings is not None] == [2]
    assert_equal_tensors(blocks[0][2].rings, blocks[1][2].rings)
    assert len(steps[0]) == len(steps[1]) == PLAN.evaluations
    # A pipeline reports steps of several blocks in turn.
    in_order = [sorted(of, key=lambda e: (e.block, e.step)) for of in steps]
    for one, other in zip(*in_order, strict=True):
        assert (one.block, one.step, one.sigma) == (other.block, other.step, other.sigma)
        assert torch.equal(one.latents, other.latents) and torch.equal(one.velocity, other.velocity)


def assert_equal_tensors(one: dict[str, torch.Tensor] | None, other: dict[str, torch.Tensor] | None) -> None:
    assert one is not None and other is not None and one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Stop(Exception):
    pass


def test_a_run_that_was_interrupted_goes_on_from_its_rings(remote: RemoteExecutor, local: LocalExecutor) -> None:
    conditions = random_conditions()
    expected = list(local.run(SamplingRequest(conditions, PLAN)))

    def interrupt(evaluation: Evaluation) -> None:
        if (evaluation.block, evaluation.step) == (5, PLAN.steps - 1):
            raise Stop

    run = remote.run(SamplingRequest(conditions, PLAN, RunStart(), interrupt, lambda block: block == 2))
    finished: list[LatentBlock] = []
    with pytest.raises(Stop):
        finished.extend(run)
    rings = run.rings()
    run.close()
    frames = {0: finished[0].latents[:, :1]}
    states = [(finished[2].index, finished[2].rings)]
    # Pipelines are past the last state.
    states += [(finished[-1].index, rings)] if rings is not None else []
    for last, state in states:
        rest = list(remote.run(SamplingRequest(conditions, PLAN, RunStart(last + 1, frames, state))))
        assert [block.index for block in rest] == list(range(last + 1, PLAN.num_blocks))
        assert all(torch.equal(one.latents, expected[one.index].latents) for one in rest)


def test_a_wrong_input_is_told_and_the_workers_go_on(
    workers: LocalWorkers, remote: RemoteExecutor, local: LocalExecutor
) -> None:
    pid = workers.pid
    rings = {"step.0.layer.0.keys": torch.zeros(3)}
    with pytest.raises(InputError, match="the saved ring is of another plan"):
        next(remote.run(SamplingRequest(random_conditions(), PLAN, RunStart(1, {}, rings))))
    assert_same(remote, local)
    assert workers.pid == pid


def test_workers_without_a_vae_refuse_to_decode(workers: LocalWorkers) -> None:
    assert workers.decoder(lambda: None, True) is None
    with pytest.raises(InputError, match="these workers have no VAE; start them with --vae"):
        RemoteDecoder(workers, torch.zeros(16, 7, 8, 8), "hold", torch.float32).take(0)


def test_an_error_of_the_voice_is_told(workers: LocalWorkers, remote: RemoteExecutor) -> None:
    class Broken:
        def frames(self, first: int, count: int) -> torch.Tensor:
            raise InputError("the voice is hoarse")

    with pytest.raises(InputError, match="the voice is hoarse"):
        next(remote.run(SamplingRequest(replace(random_conditions(), audio=Broken()), PLAN)))


def test_a_new_run_ends_the_one_before(remote: RemoteExecutor, local: LocalExecutor) -> None:
    first = remote.run(SamplingRequest(random_conditions(), PLAN))
    next(first)
    assert_same(remote, local)
    with pytest.raises(MachineError, match="another run uses these workers"):
        next(first)


def test_interruption_while_the_workers_compute(workers: LocalWorkers, remote: RemoteExecutor) -> None:
    def poll() -> None:
        raise Stop

    with pytest.raises(Stop):
        list(RemoteExecutor(workers, poll).run(SamplingRequest(random_conditions(), replace(PLAN, steps=50))))
    assert next(remote.run(SamplingRequest(random_conditions(), PLAN))).index == 0


def test_many_runs_leave_nothing_behind(workers: LocalWorkers, remote: RemoteExecutor) -> None:
    plan = replace(PLAN, num_clip=1)

    def run() -> tuple[set[int], int]:
        list(remote.run(SamplingRequest(random_conditions(plan=plan), plan)))
        return processes_below(), open_descriptors()

    before = run()
    for _ in range(5):
        after = run()
    assert after == before


def raw_link(workers: LocalWorkers) -> RawClient:
    """A ComfyUI with the group's keys that may say anything."""
    group = workers._groups[0]
    return RawClient((LOOPBACK, group._port), group._own, group._theirs.public).hello()


def test_malformed_runs_are_answered_and_the_group_goes_on(
    workers: LocalWorkers, remote: RemoteExecutor, local: LocalExecutor
) -> None:
    """What has the right form and makes no sense for this model, from one that knows the keys."""
    assert_same(remote, local, replace(PLAN, num_clip=1))
    pid = workers.pid
    run = RunRequest.of(1, random_conditions(), PLAN, RunStart(), [])
    wrong_runs: list[tuple[dict[str, Any], str]] = [
        ({"text": torch.zeros(5, 17)}, "text is float32"),
        ({"motion": torch.zeros(16, 18, 8, 8)}, "motion is float32"),
        ({"plan": replace(PLAN, num_clip=10), "first_block": 15}, "the first latent frame of block 0 is needed"),
        ({"actor_masks": torch.ones(3, 3, *PLAN.grid)}, "audio is float32 [1, 25, 8, 12]; it must be [3, 25, 8, 12]"),
    ]
    for number, (fields, told) in enumerate(wrong_runs, 10):
        raw = raw_link(workers)
        assert isinstance(raw.answer(), Ready)
        raw.say(structs.replace(run, number=number, **fields))
        raw.say(More(number=number, block=15))
        while isinstance(answer := raw.answer(), WantVoice):
            raw.say(Voice(number=number, first=answer.first, audio=Noise().frames(answer.first, answer.count)))
        assert isinstance(answer, RunRefused) and told in answer.reason, (fields.keys(), answer)
        raw.close()
    for voice in (torch.zeros(1, 1, 8, 12), Noise().frames(0, 11)):
        raw = raw_link(workers)
        assert isinstance(raw.answer(), Ready)
        raw.say(run)
        raw.say(More(number=1, block=0))
        asked = raw.answer()
        raw.say(Voice(number=1, first=asked.first, audio=voice))
        while isinstance(answer := raw.answer(), WantVoice):
            raw.say(Voice(number=1, first=answer.first, audio=voice))
        assert isinstance(answer, RunRefused) and "audio is float32" in answer.reason
        raw.close()
    # These sessions took the group over; it has stayed the same one, and does right what is right.
    raw = raw_link(workers)
    assert isinstance(raw.answer(), Ready)
    raw.say(structs.replace(run, number=20))
    raw.say(More(number=20, block=0))
    while not isinstance(answer := raw.answer(), Block):
        if isinstance(answer, WantVoice):
            raw.say(Voice(number=20, first=answer.first, audio=Noise().frames(answer.first, answer.count)))
    assert torch.equal(answer.latents, next(local.run(SamplingRequest(random_conditions(), PLAN))).latents)
    raw.close()
    assert workers.pid == pid
