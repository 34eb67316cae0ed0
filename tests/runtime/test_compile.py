"""torch.compile as an option: no new graph for another layer, block or step."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_block_run import PLAN, latents
from test_block_run import conditions as conditions
from test_block_run import executor as executor
from tiny_avatar import PLAN as TINY_PLAN
from tiny_avatar import random_conditions, random_model
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from liveavatar_runtime.dit.block import PLAIN
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.run import SamplingRequest

ROOT = Path(__file__).parents[2]
GRAPHS = 2
"""Pieces that a layer is compiled in: before and after self-attention."""


def plain(model: CausalWanS2V) -> None:
    """Undo `compile_layers`."""
    model.pieces = PLAIN


@pytest.fixture
def counter(executor):
    torch._dynamo.reset()
    counter = CompileCounter()
    executor.model.compile_layers(backend=counter)
    yield counter
    plain(executor.model)
    torch._dynamo.reset()


def test_more_sizes_are_compiled_than_pytorch_does_by_itself(executor, counter):
    """After eight shapes of one function it stops, and says so in its log alone."""
    pieces, counts = executor.model.pieces, []
    assert torch._dynamo.config.recompile_limit >= 64

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    compiled = torch.compile(doubled, backend=counter, dynamic=False)
    for size in range(2, 14):
        compiled(torch.ones(size))
        counts.append(counter.frame_count)
    assert counts == list(range(1, 13)) and pieces is not PLAIN


@pytest.mark.parametrize("batched", [False, True])
def test_blocks_steps_and_layers_share_their_graphs(executor, conditions, counter, batched):
    """After the first block nothing is compiled any more."""
    plan = replace(PLAN, num_clip=5)
    executor = replace(executor, batched=batched)
    run, counts = executor.run(SamplingRequest(conditions, plan)), []
    made = []
    for block in run:
        made.append(block)
        counts.append(counter.frame_count)
    # The first block sees all there is: the sink, and batches that grow until as many blocks are under way as steps.
    assert counts[0] > 0 and set(counts) == {counts[0]}
    # Sink, one row, and any number of rows.
    assert counts[0] == GRAPHS * (3 if batched else 2)
    plain(executor.model)
    assert torch.equal(latents(made), latents(list(executor.run(SamplingRequest(conditions, plan)))))


def test_other_sizes_and_lengths_share_their_graphs():
    """A second size compiles for any number of tokens; nothing breaks a graph, and nothing is compiled again."""
    torch._dynamo.reset()
    counters.clear()
    counter, model, counts = CompileCounter(), random_model(), []
    model.compile_layers(backend=counter)
    short = replace(TINY_PLAN, num_clip=1)
    sizes = [{}, {"num_clip": 2}, {"width": 128}, {"height": 128}, {"width": 192, "height": 128}, {"steps": 2}]
    for change in sizes:
        plan = replace(short, **change)
        request = SamplingRequest(random_conditions(plan=plan), plan)
        assert len(list(LocalExecutor(model, torch.device("cpu"), torch.float32).run(request))) == plan.num_blocks
        counts.append(counter.frame_count)
    torch._dynamo.reset()
    assert counts == [2 * GRAPHS, 2 * GRAPHS, *[3 * GRAPHS] * 4]
    assert not counters["graph_break"]


def test_what_few_need_is_not_imported_at_start_nor_to_load_a_model():
    """The compiler is slow; the presets read calibrations, of which a damaged one must not stop the pack."""
    unwanted = {"torch._dynamo", "liveavatar_runtime.planning.presets"}
    program = (
        "import sys, liveavatar_runtime.executors.table\n"
        "from pathlib import Path\n"
        "from liveavatar_runtime.checkpoint.transformer import load_transformer\n"
        "load_transformer(Path('demo/liveavatar-demo'))\n"
        f"print({unwanted!r} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "set()"


def test_traced_code_gives_the_same_latents(executor, conditions):
    """Through the compiler's own graphs, without its code generator, which needs a C++ compiler."""
    plan = replace(PLAN, num_clip=1)
    expected = latents(list(executor.run(SamplingRequest(conditions, plan))))
    executor.model.compile_layers(backend="aot_eager")
    try:
        traced = latents(list(executor.run(SamplingRequest(conditions, plan))))
    finally:
        plain(executor.model)
        torch._dynamo.reset()
    torch.testing.assert_close(traced, expected, atol=1e-5, rtol=0)
