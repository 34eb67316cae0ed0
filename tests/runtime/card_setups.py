"""The 14B model in fp8 on cards, for tests of what sizes take."""

from dataclasses import replace

import torch

from benchmarks.card_table import RTX_4090, WEIGHTS
from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.executors.size_costs import Setup
from liveavatar_runtime.planning.machines import Machines
from liveavatar_runtime.planning.memory import CacheChoice, decode_bytes
from liveavatar_runtime.planning.workload import DECODER_PARAMETERS, Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.vae.config import VaeConfig

PLAN = ClipPlan(num_clip=1, width=688, height=368, keep_aspect=False)
FP8 = Workload(WAN_S2V_14B, PLAN, stored_bytes=int(WEIGHTS["fp8"]))


def setup_of(work: Workload, card=RTX_4090, count: int = 1, executor: str = "local", **caches) -> Setup:
    """Cards with enough RAM, of which the first decodes."""
    size = DECODER_PARAMETERS * 2 + decode_bytes(VaeConfig(), work.plan, torch.bfloat16)
    first = replace(card, occupied=size)
    machines = Machines.here([first, *[card] * (count - 1)], 0)
    return Setup(machines=machines, decoder_bytes=size, executor=executor, caches=CacheChoice(**caches))
