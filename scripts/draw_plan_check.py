"""Draws docs/images/plan_check_*.png, pictures of Plan Check for the docs: `python -m scripts.draw_plan_check`."""

from pathlib import Path

import torch

from benchmarks.card_table import OTHERS, WEIGHTS
from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.executors.plan_advice import advise
from liveavatar_runtime.executors.plan_case import Case, Decoding, answer
from liveavatar_runtime.executors.plan_report import PlanReport
from liveavatar_runtime.media.bar_chart import draw_chart
from liveavatar_runtime.planning.device import RESERVED_SHARE
from liveavatar_runtime.planning.known_machines import known_machine
from liveavatar_runtime.planning.workload import DECODER_PARAMETERS, Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.texts import GIB
from liveavatar_runtime.vae.config import VaeConfig

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
RAM = 64 * GIB
PICTURES = {"plan_check_24_gib": ("1x RTX 4090", "fp8"), "plan_check_4_cards": ("4x RTX 4090", "bf16")}
"""Name of the file -> machine and weights."""


def report_of(machine: str, weights: str) -> PlanReport:
    """Of a minute at 688x368."""
    stored = int(WEIGHTS[weights])
    plan = ClipPlan(num_clip=20, width=688, height=368, keep_aspect=False)
    machines = known_machine(machine, RAM * (1 - RESERVED_SHARE) - OTHERS - stored)
    case = Case(
        work=Workload(WAN_S2V_14B, plan, stored_bytes=stored),
        machines=machines,
        decodes=(True, *[False] * (len(machines.devices) - 1)),
        vae=Decoding(VaeConfig(), torch.bfloat16, DECODER_PARAMETERS),
        ram=RAM,
        taken=OTHERS,
        weights_in_ram=stored,
    )
    found = answer(case)
    return PlanReport(found, advise(found), f"{machine} with 64 GiB of RAM", f"14B model in {weights}", plan)


def main() -> None:
    for name, (machine, weights) in PICTURES.items():
        picture = draw_chart(report_of(machine, weights).chart())
        picture.quantize(64).save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
