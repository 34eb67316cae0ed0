"""Runs in worker processes equal those in this one, bit for bit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_avatar import PLAN, random_conditions, random_model
from worker_group import local_workers, open_descriptors, processes_below, save_model

from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.parallel.executor import Executor
from liveavatar_runtime.parallel.local import LocalExecutor
from liveavatar_runtime.parallel.remote import RemoteExecutor
from liveavatar_runtime.parallel.workers import LocalWorkers
from liveavatar_runtime.sampling.block_loop import Evaluation, LatentBlock, RunStart

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many as each worker has: the order of a sum may depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def workers(model_folder: Path) -> Iterator[LocalWorkers]:
    group = local_workers(model_folder, 2)
    yield group
    group.close()


@pytest.fixture(scope="module")
def remote(workers: LocalWorkers) -> RemoteExecutor:
    return RemoteExecutor(workers)


@pytest.fixture(scope="module")
def local() -> LocalExecutor:
    return LocalExecutor(random_model(), CPU, torch.float32)


def assert_same(executor: Executor, reference: Executor, plan=PLAN, actors: int = 1) -> None:
    conditions = random_conditions(plan=plan, actors=actors)
    expected, got = list(reference.run(conditions, plan)), list(executor.run(conditions, plan))
    assert [(b.index, b.clip) for b in got] == [(b.index, b.clip) for b in expected]
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.latents, other.latents), f"block {one.index}"


@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize("actors", [1, 2])
def test_two_ranks_give_the_same_latents(remote: RemoteExecutor, local: LocalExecutor, steps: int, actors: int) -> None:
    assert_same(remote, local, replace(PLAN, steps=steps), actors)


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_other_numbers_of_ranks_give_the_same_latents(model_folder: Path, local: LocalExecutor, ranks: int) -> None:
    group = local_workers(model_folder, ranks)
    assert_same(RemoteExecutor(group), local)
    whole = sum(p.numel() * p.element_size() for p in random_model().parameters())
    layers = sum(p.numel() * p.element_size() for p in random_model().blocks.parameters())
    voice = sum(p.numel() * p.element_size() for p in random_model().audio_injector.parameters())
    rest = whole - layers - voice
    link = group.link(lambda: None)
    for rank in link.about["ranks"]:
        # FSDP cuts tensors into equal numbers of rows, so small ones leave a remainder on the first ranks.
        assert (rank["bytes"] - rest) / (layers + voice) == pytest.approx(1 / ranks, abs=0.03)
    group.close()


def test_steps_and_kept_rings_arrive(remote: RemoteExecutor, local: LocalExecutor) -> None:
    conditions = random_conditions()
    steps: tuple[list[Evaluation], list[Evaluation]] = ([], [])
    runs = [
        e.run(conditions, PLAN, RunStart(), s.append, lambda b: b == 2)
        for e, s in zip((remote, local), steps, strict=True)
    ]
    blocks = [list(run) for run in runs]
    assert [b.index for b in blocks[0] if b.rings is not None] == [2]
    assert_equal_tensors(blocks[0][2].rings, blocks[1][2].rings)
    assert len(steps[0]) == len(steps[1]) == PLAN.evaluations
    for one, other in zip(*steps, strict=True):
        assert (one.block, one.step, one.sigma) == (other.block, other.step, other.sigma)
        assert torch.equal(one.latents, other.latents) and torch.equal(one.velocity, other.velocity)


def assert_equal_tensors(one: dict[str, torch.Tensor] | None, other: dict[str, torch.Tensor] | None) -> None:
    assert one is not None and other is not None and one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Stop(Exception):
    pass


def test_a_run_that_was_interrupted_goes_on_from_its_rings(remote: RemoteExecutor, local: LocalExecutor) -> None:
    conditions = random_conditions()
    expected = list(local.run(conditions, PLAN))

    def interrupt(evaluation: Evaluation) -> None:
        if (evaluation.block, evaluation.step) == (3, 2):
            raise Stop

    run = remote.run(conditions, PLAN, RunStart(), interrupt)
    first: list[LatentBlock] = []
    with pytest.raises(Stop):
        first += iter(run.__next__, None)
    first = expected[:3]
    rings = run.rings()
    run.close()
    frames = {0: first[0].latents[:, :1]}
    rest = list(remote.run(conditions, PLAN, RunStart(3, frames, rings)))
    assert [block.index for block in rest] == [3, 4, 5]
    assert all(torch.equal(one.latents, expected[one.index].latents) for one in rest)


def test_a_wrong_input_is_told_and_the_workers_go_on(
    workers: LocalWorkers, remote: RemoteExecutor, local: LocalExecutor
) -> None:
    pid = workers.pid
    rings = {"step.0.layer.0.keys": torch.zeros(3)}
    with pytest.raises(InputError, match="the saved ring is of another plan"):
        next(remote.run(random_conditions(), PLAN, RunStart(1, {}, rings)))
    assert_same(remote, local)
    assert workers.pid == pid


def test_an_error_of_the_voice_is_told(workers: LocalWorkers, remote: RemoteExecutor) -> None:
    class Broken:
        def frames(self, first: int, count: int) -> torch.Tensor:
            raise InputError("the voice is hoarse")

    with pytest.raises(InputError, match="the voice is hoarse"):
        next(remote.run(replace(random_conditions(), audio=Broken()), PLAN))


def test_a_new_run_ends_the_one_before(remote: RemoteExecutor, local: LocalExecutor) -> None:
    first = remote.run(random_conditions(), PLAN)
    next(first)
    assert_same(remote, local)
    with pytest.raises(MachineError, match="another run uses these workers"):
        next(first)


def test_interruption_while_the_workers_compute(workers: LocalWorkers, remote: RemoteExecutor) -> None:
    def poll() -> None:
        raise Stop

    with pytest.raises(Stop):
        list(RemoteExecutor(workers, poll).run(random_conditions(), replace(PLAN, steps=50)))
    assert next(remote.run(random_conditions(), PLAN)).index == 0


def test_many_runs_leave_nothing_behind(workers: LocalWorkers, remote: RemoteExecutor) -> None:
    plan = replace(PLAN, num_clip=1)

    def run() -> tuple[set[int], int]:
        list(remote.run(random_conditions(plan=plan), plan))
        return processes_below(), open_descriptors()

    before = run()
    for _ in range(5):
        after = run()
    assert after == before
