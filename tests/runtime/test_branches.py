"""Branches of a video: what they share, what is sampled for them, and what is forgotten with what they go on from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spooled_video import PLAN, STATE_BYTES, Sampling, latents_of, settings
from tiny_avatar import random_model, scripted_conditions
from torch import Tensor

from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.pipelines import LayerPipelineExecutor, TimestepPipelineExecutor
from liveavatar_runtime.pipeline.stage_model import replicate, spread_layers
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation, Executor, SamplingRequest
from liveavatar_runtime.sampling.script import Change, Script
from liveavatar_runtime.sampling.takes import Take, parse_takes, print_takes, resolved
from liveavatar_runtime.spool.chain import Branch, Chain, Link, chain_of, read_branches, write_branch
from liveavatar_runtime.spool.latent_stream import LatentStream, Storage, StreamHooks
from liveavatar_runtime.spool.spliced_stream import SplicedStream
from liveavatar_runtime.spool.spool import InexactStart, NoRoom, Spool
from liveavatar_runtime.spool.states import StateSettings
from liveavatar_runtime.spool.store import SpoolStore

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
BPC = PLAN.blocks_per_clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def scripted(*changes: Change, plan: ClipPlan = PLAN) -> ClipPlan:
    return replace(plan, script=Script(changes))


def branch_of(sampling: Sampling, folder: Path, plan: ClipPlan, states: StateSettings | None = None) -> LatentStream:
    """A stream whose clips are named by its script."""
    sampling.conditions = scripted_conditions(plan=plan)
    spool = Spool(folder, chain=chain_of(plan, sampling.conditions))
    return LatentStream(plan, sampling.conditions.motion[:, -7:], sampling, Storage(spool, states or StateSettings()))


def made(folder: Path, plan: ClipPlan, states: StateSettings | None = None) -> tuple[Tensor, list[int]]:
    """Latents of a video, and the blocks that were sampled for it."""
    sampling = Sampling()
    return latents_of(branch_of(sampling, folder, plan, states)), sampling.blocks


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_no_change_has_the_names_of_before(folder):
    made(folder, PLAN)
    assert chain_of(PLAN, scripted_conditions()) == replace(Chain(), blocks_per_clip=BPC, clips=PLAN.num_clip)
    assert {n for n in files_in(folder) if "clip" in n} == {f"clip-{n:06}.safetensors" for n in range(PLAN.num_clip)}


@pytest.mark.parametrize(
    "change", [Change(block=10, text=True), Change(block=11, picture=True), Change(block=10, seed=5, motion=0.5)]
)
def test_a_branch_samples_from_its_change_on_and_equals_a_fresh_run(folder, tmp_path, change):
    plan, clip = scripted(change), change.block // BPC
    before, _ = made(folder, PLAN)
    branch, sampled = made(folder, plan)
    assert sampled == list(range(clip * BPC, PLAN.num_blocks))
    fresh, _ = made(tmp_path / "fresh", plan)
    assert torch.equal(branch, fresh) and not torch.equal(branch, before)
    assert torch.equal(branch[:, : change.block * 3], before[:, : change.block * 3])
    for back, latents in ((PLAN, before), (plan, branch)):
        again, sampled = made(folder, back)
        assert torch.equal(again, latents) and not sampled, "going back samples nothing"


def layer_pipeline(model: CausalWanS2V) -> Executor:
    layers = split_evenly(model.config.num_layers, 2)
    return LayerPipelineExecutor(spread_layers(model, layers, [CPU] * 2), layers, torch.float32)


def timestep_pipeline(model: CausalWanS2V) -> Executor:
    return TimestepPipelineExecutor(replicate(model, [CPU] * 2), torch.float32)


@pytest.mark.parametrize("make", [layer_pipeline, timestep_pipeline])
def test_a_pipeline_goes_on_with_a_branch_of_a_video_that_another_executor_made(folder, tmp_path, make):
    plan = scripted(Change(block=11, text=True, seed=8))
    made(folder, PLAN)
    conditions, executor, sampled = scripted_conditions(plan=plan), make(random_model()), list[int]()

    def note(evaluation: Evaluation) -> None:
        if evaluation.step == plan.steps - 1:
            sampled.append(evaluation.block)
            if sampled == [10, 11, 12]:
                raise InterruptedError("the button")

    def stream() -> LatentStream:
        spool = Spool(folder, chain=chain_of(plan, conditions))
        return LatentStream(
            plan,
            conditions.motion[:, -7:],
            lambda part, start, keep: executor.run(SamplingRequest(conditions, part, start, note, keep)),
            Storage(spool, StateSettings()),
        )

    with pytest.raises(InterruptedError):
        latents_of(stream())
    # Clip 6 was finished, and the state after it kept.
    assert torch.equal(latents_of(stream()), made(tmp_path / "fresh", plan)[0]) and sampled[3:] == [12, 13, 14, 15]


def test_branches_of_a_branch_share_what_they_have_in_common(folder):
    first, second = Change(block=6, text=True), Change(block=12, seed=3)
    made(folder, scripted(first))
    _, sampled = made(folder, scripted(first, second))
    assert sampled == list(range(12, 16))
    _, sampled = made(folder, scripted(second))
    assert sampled == list(range(6, 16)), "the first change decides what the second one goes on from"


@pytest.mark.parametrize("stop_at", [(10, 1), (11, 0), (14, 1)])
def test_a_branch_goes_on_exactly_after_an_interruption(folder, tmp_path, stop_at):
    plan = scripted(Change(block=11, text=True))
    made(folder, PLAN)
    sampling = Sampling(stop_at=stop_at)
    with pytest.raises(InterruptedError):
        latents_of(branch_of(sampling, folder, plan))
    latents = latents_of(branch_of(sampling, folder, plan))
    assert sampling.blocks == list(range(10, 16)) and torch.equal(latents, made(tmp_path / "fresh", plan)[0])


def test_a_branch_in_segments(folder, tmp_path):
    plan = scripted(Change(block=9, text=True))
    made(folder, PLAN)
    parts: list[Tensor] = []
    sampled: list[int] = []
    for index in range(4):
        latents, blocks = made(folder, replace(plan, segment_clips=2, segment_index=index))
        parts.append(latents)
        sampled += blocks
    assert sampled == list(range(8, 16)) and torch.equal(torch.cat(parts, dim=1), made(tmp_path / "fresh", plan)[0])


def test_without_a_state_a_branch_begins_after_a_warm_up_and_leaves_the_others(folder):
    plan, none = scripted(Change(block=10, seed=5)), StateSettings(STATE_BYTES, 0)
    before, _ = made(folder, PLAN, none)
    stream = branch_of(Sampling(), folder, plan, none)
    latents_of(stream)
    assert "after a warm-up" in stream.news[0] and stream.spool.inexact_starts() == [InexactStart(10)]
    again, sampled = made(folder, PLAN, none)
    assert torch.equal(again, before) and not sampled and not Spool(folder).inexact_starts()


def test_what_goes_on_from_a_clip_that_is_begun_anew_is_forgotten(folder):
    """A branch from clip 6 shares clip 5, which is damaged; a branch from clip 2 does not."""
    none = StateSettings(STATE_BYTES, 0)
    late, early = scripted(Change(block=12, seed=5)), scripted(Change(block=4, seed=6))
    for plan in (PLAN, late, early):
        made(folder, plan, none)
    (folder / "clip-000005.safetensors").write_bytes(b"damaged")
    latents_of(branch_of(sampling := Sampling(), folder, PLAN, none))
    assert sampling.first_blocks == [10] and Spool(folder).inexact_starts() == [InexactStart(10)]
    assert branch_of(Sampling(), folder, late, none).spool.clips() == [0, 1, 2, 3, 4, 5]
    assert branch_of(Sampling(), folder, early, none).spool.clips() == list(range(PLAN.num_clip))


def test_begun_anew_reaches_all_branches_that_go_on(folder):
    links = (Link(12, "a" * 16),)
    plain, late, early = (
        Spool(folder, chain=Chain(one, BPC, 8)) for one in ((), links, (Link(4, "b" * 16), Link(12, "c" * 16)))
    )
    for spool in (plain, late, early):
        assert spool.try_lock()
        for clip in range(8):
            if not spool.has_clip(clip):
                spool.write_clip(clip, torch.zeros(16, 1))
        spool.unlock()
    assert [branch.mark[0] for branch in read_branches(folder)] == ["a", "c"]
    assert late.clips() == early.clips() == list(range(8))
    plain.try_lock()
    plain.note_inexact_start(InexactStart(10), BPC)
    assert plain.clips() == late.clips() == [0, 1, 2, 3, 4] and early.clips() == list(range(8))
    assert late.inexact_starts() == [InexactStart(10)] and not early.inexact_starts()


def test_begun_anew_reaches_a_branch_of_which_only_a_longer_one_is_noted(folder):
    """Both have changed at clip 3; the clips after clip 6 bear the mark of the shorter one too."""
    shorter, longer = (Link(4, "a" * 16),), (Link(4, "a" * 16), Link(12, "b" * 16))
    spools = [Spool(folder, chain=Chain(links, BPC, 8)) for links in ((), shorter, longer)]
    for spool in spools:
        assert spool.try_lock()
        for clip in range(8):
            if not spool.has_clip(clip):
                spool.write_clip(clip, torch.zeros(16, 1))
        spool.unlock()
    assert [branch.mark[0] for branch in read_branches(folder)] == ["b"] and spools[1].clips() == list(range(8))
    spools[0].try_lock()
    spools[0].note_inexact_start(InexactStart(2), BPC)
    assert [spool.clips() for spool in spools] == [[0]] * 3


def test_a_take_alone_takes_no_room_from_the_video_it_stands_in(folder):
    made(folder, PLAN)
    whole = Spool(folder, refusal=lambda size: "full", chain=chain_of(PLAN, scripted_conditions()))
    plan = resolved(replace(PLAN, takes=parse_takes("5: 1"))).alone[4]
    take = whole.with_chain(chain_of(plan, scripted_conditions()))
    assert take.try_lock()
    with pytest.raises(NoRoom, match="full"):
        take.write_clip(4, torch.zeros(16, 1))
    assert whole.clips() == list(range(PLAN.num_clip))


def test_states_of_all_branches_keep_within_the_budget(folder):
    states = settings(4)
    made(folder, PLAN, states)
    made(folder, scripted(Change(block=10, seed=5)), states)
    spool = Spool(folder)
    total = sum(spool.state_sizes().values()) + sum(size for _, _, size in spool.other_states())
    assert total <= states.budget and branch_of(Sampling(), folder, scripted(Change(block=10, seed=5))).spool.states()


def test_the_list_of_spools_counts_branches(tmp_path):
    key = "a" * 32
    made(tmp_path / key, PLAN)
    made(tmp_path / key, scripted(Change(block=10, seed=5)))
    (info,) = SpoolStore(tmp_path).spools()
    assert info.branches == 1 and info.clips == 11 and "11 clips, branches 1," in str(info)


def test_a_longer_branch_takes_the_place_of_what_it_goes_on_from(tmp_path):
    one, two = Branch((Link(0, "a" * 16),)), Branch((Link(0, "a" * 16), Link(3, "b" * 16)))
    for branch in (one, two, two):
        write_branch(tmp_path, branch)
    assert list(read_branches(tmp_path)) == [two]
    (tmp_path / f"branch-{'d' * 16}.json").write_text("[[1, 2, 3]]")
    assert list(read_branches(tmp_path)) == [two], "what is not readable is left out"


def splice(sampling: Sampling, folder: Path, plan: ClipPlan) -> SplicedStream:
    found = resolved(plan)
    sampling.conditions = scripted_conditions(plan=found.plan)
    history, whole = sampling.conditions.motion[:, -7:], Spool(folder, chain=chain_of(found.plan, sampling.conditions))
    stream = SplicedStream(found.plan, history, sampling, Storage(whole, StateSettings()), StreamHooks())
    for clip, part in found.alone.items():
        spool = whole.with_chain(chain_of(part, sampling.conditions))
        stream.takes[clip] = LatentStream(part, history, sampling, Storage(spool, StateSettings()))
    return stream


def test_a_take_alone_leaves_the_clips_after_it(folder):
    before, _ = made(folder, PLAN)
    stream = splice(sampling := Sampling(), folder, replace(PLAN, takes=parse_takes("5: 1")))
    latents, clip = latents_of(stream), slice(4 * BPC * 3, 5 * BPC * 3)
    assert sampling.blocks == [8, 9] and not torch.equal(latents[:, clip], before[:, clip])
    rest = torch.ones(latents.shape[1], dtype=torch.bool)
    rest[clip] = False
    assert torch.equal(latents[:, rest], before[:, rest])
    assert "into clip 6 is" in "".join((*stream.news, *stream.facts)) and stream.finished_clips == PLAN.num_clip
    assert torch.equal(latents_of(splice(sampling, folder, replace(PLAN, takes=parse_takes("5: 1")))), latents)
    assert sampling.blocks == [8, 9] and torch.equal(made(folder, PLAN)[0], before)


def test_a_take_alone_of_a_video_that_is_not_finished(folder, tmp_path):
    """The rest goes on from the clip that was there before the take."""
    plan = replace(PLAN, takes=parse_takes("2: 3"))
    latents = latents_of(splice(sampling := Sampling(), folder, plan))
    whole, _ = made(tmp_path / "whole", PLAN)
    assert torch.equal(latents[:, 2 * BPC * 3 :], whole[:, 2 * BPC * 3 :])
    assert sorted(sampling.blocks) == sorted([*range(PLAN.num_blocks), 2, 3])


def test_takes_from_a_clip_on(folder):
    before, _ = made(folder, PLAN)
    takes = parse_takes("7-: 1, 5-:2")
    plan = resolved(replace(PLAN, takes=takes)).plan
    after, sampled = made(folder, plan)
    assert sampled == list(range(8, 16)) and torch.equal(after[:, : 8 * 3], before[:, : 8 * 3])
    on, sampled = made(folder, resolved(replace(PLAN, takes=parse_takes("5-: 2"))).plan)
    assert sampled == list(range(12, 16)), "clips 5 and 6 are shared"
    alone = latents_of(splice(sampling := Sampling(), folder, replace(PLAN, takes=parse_takes("5-: 2, 5: 1"))))
    assert sampling.blocks == [8, 9] and torch.equal(alone[:, 10 * 3 :], on[:, 10 * 3 :])
    assert not torch.equal(alone[:, 8 * 3 : 10 * 3], on[:, 8 * 3 : 10 * 3])
    assert resolved(replace(PLAN, takes=parse_takes("1-: 1"))).plan.seed != PLAN.seed


def test_takes_in_words():
    assert parse_takes(" 9 : 1,5-:2 \n 3=0") == (Take(4, 2), Take(8, 1, alone=True))
    assert print_takes(parse_takes("9: 1, 5-: 2")) == "5-: 2, 9: 1" and parse_takes("") == ()
    assert resolved(replace(PLAN, takes=parse_takes("99: 1"))).beyond == (Take(98, 1, alone=True),)
    for wrong, why in (("5", "takes has '5'"), ("0: 1", "count from 1"), ("5: 1, 5: 2", "names clip 5 twice")):
        with pytest.raises(InputError, match=why):
            parse_takes(wrong)


blocks = st.lists(st.integers(1, 15), unique=True).map(sorted)


@given(blocks, blocks)
def test_marks_are_equal_until_the_first_difference(ours, others):
    conditions = scripted_conditions()
    chains = [chain_of(scripted(*(Change(block=b, seed=b) for b in of)), conditions) for of in (ours, others)]
    differ = min(set(ours) ^ set(others), default=PLAN.num_blocks)
    for block in range(PLAN.num_blocks):
        one, other = (chain.of_block(block) for chain in chains)
        assert (one == other) == (block < differ)
    for chain in chains:
        assert [chain.branch.of_clip(clip) for clip in range(8)] == [chain.of_clip(clip) for clip in range(8)]
