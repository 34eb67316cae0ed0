"""Executors that only groups of worker processes run: what is known of them without those. `liveavatar_workers` has
what runs them (its `rank.executors`)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from ..config import AvatarConfig
from ..planning.forecast import Forecast, Load, Option, caches_in_ram
from ..planning.memory import working_rows
from ..planning.memory_rows import rows_of, together
from ..planning.workload import Workload
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


def gathering_seconds(forecast: Forecast) -> float:
    """Of all layers for one evaluation, over the slowest link of the ring; each device has its share of them already.
    What stands before and after the layers is whole on every device."""
    work, cards = forecast.work, forecast.cards
    ring = [forecast.machines.between(card, (card + 1) % cards) for card in range(cards)]
    slowest = min(ring, key=lambda link: link.bandwidth)
    received = sum(map(work.layer_weights, work.layers)) * (cards - 1) / cards
    return slowest.seconds(received) + slowest.latency * len(work.layers) * (cards - 1)


def gathered_bytes(work: Workload) -> int:
    """What a rank has whole at most: the layer that computes, what it was gathered into, which PyTorch lets go of when
    the next one has arrived (`FSDPParamGroup.wait_for_unshard`), and the next one, which is gathered meanwhile."""
    layers = [work.called_weights(layer) for layer in work.layers]
    return max((2 * first + second for first, second in pairwise(layers)), default=2 * layers[0])


def _forecast(forecast: Forecast) -> Iterator[Option]:
    """Every device does every evaluation; the next layer is gathered meanwhile.

    Layers and voice injections are shared out; what stands before and after them is whole on every device
    (`rank.fsdp`)."""
    work, cards, placement = forecast.work, forecast.cards, forecast.setting.placement
    if cards < 2:
        return
    layers = sum(map(work.layer_weights, work.layers))
    whole = work.weights(work.layers) - layers
    shared = rows_of([("weights", whole + layers / cards), ("gather buffers", gathered_bytes(work))])
    held = together(shared, working_rows(work, placement))
    load = Load(devices=[held] * cards, ram=[caches_in_ram(work, placement)] * cards)
    yield forecast.single(FSDP.name, load, gathering_seconds(forecast))


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
