"""Cases for Plan Check, made from the values of widgets, as the nodes make them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmarks.card_table import OTHERS, WEIGHTS
from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.executors.plan_case import Case, Decoding
from liveavatar_runtime.planning.device import RESERVED_SHARE
from liveavatar_runtime.planning.known_machines import known_machine
from liveavatar_runtime.planning.memory import CacheChoice
from liveavatar_runtime.planning.workload import DECODER_PARAMETERS, Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.texts import GIB
from liveavatar_runtime.vae.config import VaeConfig

PRECISIONS = {"fp8_e4m3fn": 1.03, "bf16": 2.0, "fp16": 2.0}
BIGGEST_VAE = Decoding(VaeConfig(), torch.bfloat16, DECODER_PARAMETERS)


def case_of(machine: str, ram: float, widgets: Mapping[str, Any], weights: str = "fp8") -> Case:
    """`ram` in GiB; `weights`: the file's, which `precision` of the widgets overrules."""
    width, height = map(int, widgets.get("size", "688x368").split("x"))
    names = ("steps", "window_blocks")
    plan = ClipPlan(width=width, height=height, keep_aspect=False, **{n: widgets[n] for n in names if n in widgets})
    precision = widgets.get("precision", AUTO)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    counted = Workload(WAN_S2V_14B, plan, dtype, weight_bytes=PRECISIONS.get(precision, 0.0))
    stored = int(WEIGHTS[weights]) if precision == AUTO else counted.weights(counted.layers)
    free = ram * GIB * (1 - RESERVED_SHARE) - OTHERS - stored
    machines, every = known_machine(machine, free), None
    executor = widgets.get("executor", AUTO)
    if executor == "local":
        machines, every = replace(machines, devices=machines.devices[:1], machine_of=(0,)), machines
    caches = CacheChoice(**{n: widgets[n] for n in ("kv_cache", "kv_dtype", "schedule") if n in widgets})
    return Case(
        work=Workload(WAN_S2V_14B, plan, dtype, stored_bytes=stored),
        machines=machines,
        decodes=(True, *[False] * (len(machines.devices) - 1)),
        vae=BIGGEST_VAE,
        ram=ram * GIB,
        taken=OTHERS,
        weights_in_ram=stored,
        executor=executor,
        caches=caches,
        every=every if every and len(every.devices) > 1 else None,
    )
