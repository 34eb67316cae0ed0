"""The planner's answers that `benchmarks.published` compares with: plans of the 14B model on four RTX 4090."""

from dataclasses import dataclass, replace
from functools import cache

import torch

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.executors.advisor import Advisor
from liveavatar_runtime.executors.groups import gathering_seconds
from liveavatar_runtime.executors.table import TABLE
from liveavatar_runtime.planning.forecast import PRIMING, Forecast, Option, Setting
from liveavatar_runtime.planning.machines import Machines
from liveavatar_runtime.planning.memory import decode_bytes
from liveavatar_runtime.planning.presets import PRESETS
from liveavatar_runtime.planning.workload import DECODER_PARAMETERS, Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.texts import GIB
from liveavatar_runtime.vae.config import VaeConfig

FSDP, PIPELINE, LOCAL, TIMESTEPS = "fsdp", "layer_pipeline", "local", "timestep_pipeline"
RAM = 256 * GIB
"""Of each machine: enough for every plan here, as what the published runs had is not known."""


def _machines(name: str) -> Machines:
    found = next(machines for machines in PRESETS if machines.name == name)
    return replace(found, devices=tuple(replace(device, ram=RAM) for device in found.devices))


ONE_4090, FOUR_4090, FIVE_H800 = map(_machines, ("1x RTX 4090", "4x RTX 4090", "5x H800"))
ONE_LARGE = replace(ONE_4090, devices=(replace(ONE_4090.devices[0], memory=96 * GIB),))
"""As fast as a 4090, with room for everything."""


@dataclass(frozen=True)
class Asked:
    """What is planned: pixels, steps and clips, and the dtype of activations and caches; weights take two bytes."""

    width: int = 688
    height: int = 368
    steps: int = 4
    clips: int = 100
    dtype: torch.dtype = torch.bfloat16

    @property
    def work(self) -> Workload:
        plan = ClipPlan(width=self.width, height=self.height, steps=self.steps, num_clip=self.clips, keep_aspect=False)
        return Workload(WAN_S2V_14B, plan, self.dtype)

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


@cache
def best(asked: Asked, executor: str, machines: Machines = FOUR_4090) -> Option:
    """The advisor's first way of an executor."""
    return Advisor(asked.work, machines, (executor,)).best()


@cache
def same_way(asked: Asked, executor: str, setting: Setting) -> Option:
    """An executor on the four cards with the caches and the decoder where another plan has them."""
    return next(Advisor(asked.work, FOUR_4090, (executor,)).options_of(setting))


def with_decoder(asked: Asked, executor: str, number: int | None) -> Option:
    """An executor on all four cards, the caches where its best way has them; the VAE beside the work of a card, or
    with None nowhere, so that decoding takes nothing."""
    size = DECODER_PARAMETERS * 2 + decode_bytes(VaeConfig(), asked.work.plan, torch.bfloat16)
    setting = replace(best(asked, executor).setting, vae_alone=False)
    forecast = Forecast(asked.work, FOUR_4090.decoding_at(number, size), size, setting)
    return next(iter(TABLE[executor].forecast(forecast)))


def seconds_of_an_evaluation(asked: Asked) -> tuple[float, float]:
    """By a card of the fsdp plan: computing, and meanwhile the gathering of the layers."""
    rates = FOUR_4090.devices[0].rates
    assert rates is not None
    computing = rates.seconds(asked.work.operations(asked.work.layers))
    forecast = Forecast(asked.work, FOUR_4090, 0, best(asked, FSDP).setting)
    return computing, gathering_seconds(forecast)


def priming_seconds(asked: Asked) -> float:
    """Of the VAE before the first block."""
    rates, work = FOUR_4090.devices[0].rates, asked.work
    assert rates is not None
    return PRIMING * rates.decode_seconds(work.decode_flops(), work.decode_moved())


def peak(option: Option) -> float:
    """GiB on the fullest card."""
    return max(option.memory) / GIB
