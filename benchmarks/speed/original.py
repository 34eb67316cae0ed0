"""One layer over a full ring beside the original's own, of the 14B model's width, in one process."""

from collections.abc import Iterator
from importlib.util import find_spec

import torch

from benchmarks.card.original import NEEDED, load, make_inputs, make_layer
from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.planning.sample_model import layer_call
from liveavatar_runtime.planning.workload import Workload, cache_shape
from liveavatar_runtime.sampling.plan import ClipPlan

from .paired import paired
from .setup import Row, Setup

BF16 = torch.bfloat16
PART = "layer"


def rows(setup: Setup) -> Iterator[Row]:
    if setup.original is None:
        yield Row.skipped(PART, "the original's: no folder was given with --original")
        return
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        yield Row.skipped(PART, f"the original's: it needs {', '.join(missing)}, which is not installed")
        return
    module, attention = load(setup.original, setup.device.type == "cuda")
    plan = ClipPlan(width=128, height=128, keep_aspect=False)
    shape = cache_shape(WAN_S2V_14B, plan)
    theirs = make_layer(WAN_S2V_14B, setup.device, module)
    given = make_inputs(setup.device, shape, WAN_S2V_14B.dim)
    ours = layer_call(Workload(WAN_S2V_14B, plan, BF16), setup.device)

    def original() -> None:
        with torch.inference_mode(), torch.autocast(setup.device.type, dtype=BF16):
            theirs(given["x"], **{name: value for name, value in given.items() if name != "x"})

    found = paired(ours, original, setup.device, setup.few(5))
    yield Row(
        PART,
        f"of the 14B model without the voice, bfloat16, 128x128; its attention: {attention}",
        "the original",
        found.as_row(),
    )
