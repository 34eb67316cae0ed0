"""Executors that only groups of worker processes run: what is known of them without those. `liveavatar_workers` has
what runs them (its `rank.executors`)."""

from collections.abc import Iterator, Sequence

import torch

from ..config import AvatarConfig
from ..planning.forecast import Forecast, Load, Option
from ..planning.memory import ram_bytes, working_bytes
from .kind import ExecutorKind, too_many_for_layers


def _refusal(devices: Sequence[torch.device], config: AvatarConfig) -> str:
    too_many = too_many_for_layers(FSDP.name, devices, config)
    if too_many:
        return too_many
    kinds = {device.type for device in devices}
    if len(kinds) > 1:
        return "fsdp needs devices of one kind; name only GPUs, or only cpu"
    if "cuda" in kinds and len(set(devices)) < len(devices):
        return "fsdp needs a GPU of its own for every rank; name each GPU once"
    return ""


def _forecast(forecast: Forecast) -> Iterator[Option]:
    """Every device does every evaluation; the next layer is gathered meanwhile, over the slowest link of the ring."""
    work, cards, placement = forecast.work, forecast.cards, forecast.setting.placement
    if cards < 2:
        return
    weights = work.weights(work.layers)
    ring = [forecast.machines.between(card, (card + 1) % cards) for card in range(cards)]
    slowest = min(ring, key=lambda link: link.bandwidth)
    gather = slowest.seconds(weights * (cards - 1) / cards) + slowest.latency * len(work.layers) * (cards - 1)
    held = weights / cards + 2 * work.weights(range(1, 2)) + working_bytes(work, placement)
    load = Load(devices=[held] * cards, ram=[ram_bytes(work, placement)] * cards)
    yield forecast.single(FSDP.name, load, gather)


FSDP = ExecutorKind(
    name="fsdp",
    shares="weights",
    here=None,
    runs_in_groups=True,
    auto_rank=None,
    refusal=_refusal,
    forecast=_forecast,
    oldest_torch_in_groups=(2, 7),
)
ONLY_IN_GROUPS = (FSDP,)
