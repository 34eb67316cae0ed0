"""How many calls lie between asking for a block and the attention kernel."""

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_avatar import PLAN, random_conditions, random_model
from torch import Tensor, nn

from liveavatar_runtime.dit.attention import sdpa
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.run import SamplingRequest

RUNTIME = Path(__file__).parents[2] / "liveavatar_runtime"
ADOPTED, OWN = 8, 9
"""The most frames of ours, the one that asks and the kernel included."""


class ForeignLayer(nn.Module):
    """A layer of another program: the same modules, another class."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, module in layer.named_children():
            self.add_module(name, module)
        self.modulation = layer.modulation


def adopted(kernel: Any) -> CausalWanS2V:
    tree = random_model()
    tree.blocks = nn.ModuleList(ForeignLayer(layer) for layer in tree.blocks)
    return CausalWanS2V.adopt(tree, tree.config, kernel)


def own(kernel: Any) -> CausalWanS2V:
    model = random_model()
    model.attention = kernel
    return model


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize(("make", "most"), [(adopted, ADOPTED), (own, OWN)])
def test_few_calls_lead_to_the_attention_kernel(make: Any, most: int, compiled: bool) -> None:
    depths: list[list[str]] = []

    @torch.compiler.disable
    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        names = [frame.name for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(RUNTIME)]
        # Ours stands for the kernel that is measured.
        depths.append([*names[names.index("__next__") :], "kernel"])
        return sdpa(q, k, v)

    model = make(kernel)
    if compiled:
        torch._dynamo.reset()
        model.compile_layers(backend="eager")
    executor = LocalExecutor(model, torch.device("cpu"), torch.float32)
    next(executor.run(SamplingRequest(random_conditions(), PLAN)))
    of_blocks = [names for names in depths if "attend" in names and "fill_sink" not in names]
    assert of_blocks
    deepest = max(of_blocks, key=len)
    assert len(deepest) <= most, " > ".join(deepest)
