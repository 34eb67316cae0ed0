"""A live video's blocks: those of a plan with an end, however runs hand over, change and go on."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny_avatar import PLAN, SCRIPTED, random_conditions, random_model, scripted_conditions
from torch import Tensor

from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.pipelines import TimestepPipelineExecutor
from liveavatar_runtime.live import stream as live_stream
from liveavatar_runtime.live.directed import Directed, Encoded
from liveavatar_runtime.live.state import StateFile
from liveavatar_runtime.live.stream import Keeping, LiveLatentStream, SamplingHooks
from liveavatar_runtime.pipeline.stage_model import replicate
from liveavatar_runtime.sampling.conditions import Conditions, FrameFeatures
from liveavatar_runtime.sampling.plan import ENDLESS_CLIPS, ClipPlan
from liveavatar_runtime.sampling.run import Evaluation, Executor, KeepRings, RunStart, SamplingRequest, SamplingRun
from liveavatar_runtime.sampling.video_key import Numerics, video_key

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
LIVE = replace(PLAN, num_clip=1, window_blocks=2)
HISTORY = torch.zeros(16, 7, 8, 8)


@dataclass
class Runs:
    """Begins runs of a random model, and counts them."""

    executor: Executor = field(default_factory=lambda: LocalExecutor(random_model(), CPU, torch.float32))
    starts: list[int] = field(default_factory=list)
    stop_at: tuple[int, int] | None = None

    def __call__(self, plan: ClipPlan, conditions: Conditions, start: RunStart, keep: KeepRings) -> SamplingRun:
        self.starts.append(start.first_block)
        return self.executor.run(SamplingRequest(conditions, plan, start, self._after, keep))

    def _after(self, evaluation: Evaluation) -> None:
        if (evaluation.block, evaluation.step) == self.stop_at:
            raise InterruptedError("the button")


def sampled(plan: ClipPlan, conditions: Conditions, runs: Runs) -> list[Tensor]:
    return [block.latents for block in runs.executor.run(SamplingRequest(conditions, plan))]


def taken(stream: LiveLatentStream, blocks: int) -> list[Tensor]:
    """Latents of the first ones; the iteration is ended then."""
    iteration = iter(stream)
    found = [block.latents for block in islice(iteration, blocks)]
    iteration.close()
    return found


def equal(ours: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(ours, others, strict=True))


@pytest.mark.parametrize("policy", ["adaptive", "reanchor"])
def test_runs_hand_over_bit_for_bit(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "CLIPS_A_RUN", 2)
    plan = replace(LIVE, sink_policy=policy, reanchor_clips=2)  # type: ignore[arg-type]
    runs = Runs()
    conditions = random_conditions()
    stream = LiveLatentStream(Directed(plan.without_end(), conditions), HISTORY, runs)
    assert equal(taken(stream, 14), sampled(replace(plan, num_clip=7), conditions, runs))
    assert runs.starts == [0, 4, 8, 12]


def test_changes_while_it_runs_are_those_of_a_script() -> None:
    """At the same blocks, in clips and at their borders; nothing but what is in force is kept of them."""
    conditions, script = scripted_conditions(), SCRIPTED.script.changes
    runs, at = Runs(), {change.block: change for change in script}
    first = replace(conditions, texts={}, pictures={})
    given: list[Directed] = []
    stream: LiveLatentStream

    def direct(directed: Directed, block: int) -> Directed:
        change = at[block]
        new = Encoded(
            text=conditions.texts.get(block),
            reference=conditions.pictures.get(block),
            seed=change.seed,
            motion=change.motion,
        )
        given.append(directed.changed(block, new))
        return given[-1]

    blocks: list[Tensor] = []
    hooks = SamplingHooks(asked=lambda block: block in at, direct=direct)
    stream = LiveLatentStream(
        Directed(replace(SCRIPTED, script=LIVE.script).without_end(), first), HISTORY, runs, Keeping(), hooks
    )
    iteration = iter(stream)
    for block in islice(iteration, SCRIPTED.num_blocks):
        blocks.append(block.latents)
    iteration.close()
    assert equal(blocks, sampled(SCRIPTED, conditions, runs))
    assert runs.starts == [0, *at]
    assert max(len(one.plan.script.changes) for one in given) <= 3
    assert len(given[-1].conditions.texts) == len(given[-1].conditions.pictures) == 1


@pytest.mark.parametrize("how", ["stopped", "left", "interrupted", "killed"])
def test_it_goes_on_where_it_stopped(tmp_path: Path, how: str) -> None:
    """Bit for bit, within a clip as well; after a kill from what was written last."""
    runs, conditions = Runs(), random_conditions()
    whole = sampled(replace(LIVE, num_clip=6), conditions, runs)
    stopped = False
    keeping = Keeping(StateFile(tmp_path / "key"), every_clips=2 if how == "killed" else 0)
    first = LiveLatentStream(
        Directed(LIVE.without_end(), conditions), HISTORY, runs, keeping, SamplingHooks(lambda: stopped)
    )
    iteration = iter(first)
    runs.stop_at = (5, 2) if how == "interrupted" else None
    got = [next(iteration).latents for _ in range(5)]
    if how == "interrupted":
        with pytest.raises(InterruptedError):
            next(iteration)
    elif how == "stopped":
        stopped = True
        assert next(iteration, None) is None
    elif how == "killed":
        # Nothing is done at the end: what is there was written after the second clip.
        keeping.file.unlock()  # type: ignore[union-attr]
        got = got[:4]
    else:
        iteration.close()
    runs.stop_at, stopped = None, False
    second = LiveLatentStream(
        Directed(LIVE.without_end(), conditions), HISTORY, runs, Keeping(StateFile(tmp_path / "key"))
    )
    assert second.first_block == len(got) and "goes on" in second.facts[0]
    assert equal(taken_with_voice_from(second, conditions, 12 - len(got)), whole[len(got) :])
    files = list((tmp_path / "key").iterdir())
    assert len(files) == 1, files


def taken_with_voice_from(stream: LiveLatentStream, conditions: Conditions, blocks: int) -> list[Tensor]:
    """With the voice of the whole video, as a session's begins anew."""
    stream._directed = Directed(stream.plan, conditions)  # pyright: ignore[reportPrivateUsage]
    return taken(stream, blocks)


def test_a_plan_with_an_end_ends_there() -> None:
    runs, conditions = Runs(), random_conditions()
    stream = LiveLatentStream(Directed(replace(LIVE, num_clip=2), conditions), HISTORY, runs)
    assert equal(taken(stream, 100), sampled(replace(LIVE, num_clip=2), conditions, runs))


def test_the_decoder_goes_on_with_the_last_latents(tmp_path: Path) -> None:
    runs, conditions, file = Runs(), random_conditions(), StateFile(tmp_path / "key")
    first = LiveLatentStream(Directed(LIVE.without_end(), conditions), HISTORY, runs, Keeping(file))
    assert torch.equal(first.priming(7), HISTORY)
    blocks = taken(first, 5)
    second = LiveLatentStream(Directed(LIVE.without_end(), conditions), HISTORY, runs, Keeping(file))
    assert torch.equal(second.priming(7), torch.cat(blocks[-3:], dim=1))


def test_a_second_session_of_it_is_refused_and_a_damaged_state_begins_anew(tmp_path: Path) -> None:
    runs, conditions = Runs(), random_conditions()
    streams = [
        LiveLatentStream(Directed(LIVE.without_end(), conditions), HISTORY, runs, Keeping(StateFile(tmp_path / "key")))
        for _ in range(2)
    ]
    iteration = iter(streams[0])
    next(iteration)
    with pytest.raises(MachineError, match="another live session"):
        next(iter(streams[1]))
    iteration.close()
    (path,) = (tmp_path / "key").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    anew = LiveLatentStream(
        Directed(LIVE.without_end(), conditions), HISTORY, runs, Keeping(StateFile(tmp_path / "key"))
    )
    assert anew.first_block == 0 and not path.exists()


def test_pipelines_take_changes_behind_the_block_that_begins_next() -> None:
    """Blocks that are under way are sampled again: the video is that of a script with the same change."""
    runs = Runs(TimestepPipelineExecutor(replicate(random_model(), [CPU] * 4), torch.float32))
    conditions, script = scripted_conditions(), SCRIPTED.script.changes
    text = conditions.texts[next(change.block for change in script if change.text)]
    is_asked, changed = threading.Event(), list[int]()

    def direct(directed: Directed, block: int) -> Directed:
        if not is_asked.is_set():
            return directed
        is_asked.clear()
        changed.append(block)
        return directed.changed(block, Encoded(text=text))

    hooks = SamplingHooks(asked=lambda block: is_asked.is_set(), direct=direct)
    plan, plain = replace(SCRIPTED, script=LIVE.script), replace(conditions, texts={}, pictures={})
    stream = LiveLatentStream(Directed(plan.without_end(), plain), HISTORY, runs, Keeping(), hooks)
    iteration, blocks = iter(stream), list[Tensor]()
    for block in islice(iteration, 14):
        blocks.append(block.latents)
        if block.index == 2:
            is_asked.set()
    iteration.close()
    (at,) = changed
    assert 4 <= at < 12, "a few blocks later, not at the end of the run"
    assert runs.starts == [0, at]
    directed = Directed(plan, plain).changed(at, Encoded(text=text))
    expected = sampled(replace(directed.plan, num_clip=7), directed.conditions, Runs())
    assert equal(blocks, expected)


@dataclass(frozen=True)
class Interrupted:
    """A voice that is interrupted while a block is waited for."""

    voice: FrameFeatures
    block: int
    error: BaseException

    def frames(self, first: int, count: int) -> Tensor:
        if first >= 12 * self.block:
            raise self.error
        return self.voice.frames(first, count)


@pytest.mark.parametrize("error", [KeyboardInterrupt("the button"), InputError("the button")])
def test_what_a_stage_meets_that_is_not_its_fault_is_told_as_itself(error: BaseException) -> None:
    """An interruption, which as ComfyUI's is no `Exception` and comes once, in whichever thread asks first; and what is
    wrong with a voice. In a live stream and in a run of its own."""
    runs = Runs(TimestepPipelineExecutor(replicate(random_model(), [CPU] * 2), torch.float32))
    conditions = random_conditions()
    conditions = replace(conditions, audio=Interrupted(conditions.audio, 2, error))
    with pytest.raises(type(error), match="the button"):
        taken(LiveLatentStream(Directed(LIVE.without_end(), conditions), HISTORY, runs), 6)
    with pytest.raises(type(error), match="the button"):
        sampled(replace(LIVE, num_clip=3), conditions, runs)


def test_a_plan_without_an_end_has_a_key_of_its_own() -> None:
    endless, conditions = PLAN.without_end(), random_conditions()
    assert (endless.num_clip, endless.endless, endless.until(3)) == (ENDLESS_CLIPS, True, PLAN.until(3))
    numerics = Numerics("float32", "float32")
    assert video_key("", numerics, conditions, "", endless) != video_key("", numerics, conditions, "", PLAN)
    with pytest.raises(InputError, match="no segments"):
        replace(endless, segment_clips=2)
