"""All steps, in the order of their value, in parts that are processes of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .budget import Step

MODULES_AHEAD = 25.0
"""Seconds that a part with a folder of other programs' modules needs."""


@dataclass(frozen=True)
class Part:
    """`share`: of all the time, the most that it may take; what it leaves goes to those that follow. `steps` is called
    in the part's own process: the process that starts the parts loads no PyTorch and takes no memory on the card."""

    name: str
    share: float
    steps: Callable[[], tuple[Step, ...]]


def _facts() -> tuple[Step, ...]:
    from .machine import STEPS

    return STEPS


def _right() -> tuple[Step, ...]:
    from .right import STEPS

    return STEPS


def _fits() -> tuple[Step, ...]:
    from .fits import STEPS

    return STEPS


def _fast() -> tuple[Step, ...]:
    from .fast import CORE

    return CORE


def _where() -> tuple[Step, ...]:
    from .where import STEPS

    return STEPS


def _forms() -> tuple[Step, ...]:
    from .forms import STEPS

    return STEPS


def _more() -> tuple[Step, ...]:
    from .fast import MORE

    return MORE


def _others() -> tuple[Step, ...]:
    from . import comfyui, original

    return (
        Step("ComfyUI's modules, bf16", MODULES_AHEAD, partial(comfyui.measure, quantised=False)),
        Step("the original's modules", MODULES_AHEAD, original.measure),
        Step("ComfyUI's modules, fp8", MODULES_AHEAD, partial(comfyui.measure, quantised=True)),
    )


PARTS = (
    Part("machine", 0.05, _facts),
    Part("right", 0.25, _right),
    Part("fits", 0.25, _fits),
    Part("fast", 0.35, _fast),
    Part("where", 0.12, _where),
    Part("forms", 0.08, _forms),
    Part("others", 0.25, _others),
    Part("more", 1.0, _more),
)


def part_named(name: str) -> Part:
    return next(part for part in PARTS if part.name == name)
