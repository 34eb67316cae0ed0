"""How fast tensors get to a card from RAM and from other cards, timed; and whether cards can do it by themselves."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..device_kinds import copies_ahead
from ..texts import MIB

COPIED = 256 * MIB
ROUNDS = 5

Copy = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Link:
    """From one device to another, by name. rate: bytes a second. direct: whether the cards reach each other without
    the processor's memory; None where one of them is the processor, whose memory is pinned for it."""

    source: str
    target: str
    rate: float
    direct: bool | None = None


def links_of(devices: Sequence[torch.device]) -> list[Link]:
    """Of each card with pinned memory, both ways, and of each pair of cards; none without a card. Takes COPIED bytes of
    each, and gives them back."""
    cards = [device for device in dict.fromkeys(devices) if device.type == "cuda"]
    found = [link for card in cards for link in _with_ram(card)]
    found += [_between(source, target) for source in cards for target in cards if source != target]
    if cards:
        torch.cuda.empty_cache()
    return found


def has_nccl() -> bool:
    """Whether this PyTorch can let processes on several cards talk to each other, as FSDP does."""
    return torch.distributed.is_available() and torch.distributed.is_nccl_available()


def _with_ram(card: torch.device) -> list[Link]:
    here = torch.empty(COPIED, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(COPIED, dtype=torch.uint8, device=card)
    ahead = copies_ahead(card)
    to_card = rate(lambda: there.copy_(here, non_blocking=ahead), [card])
    to_ram = rate(lambda: here.copy_(there, non_blocking=ahead), [card])
    return [
        Link(source="cpu", target=str(card), rate=to_card),
        Link(source=str(card), target="cpu", rate=to_ram),
    ]


def _between(source: torch.device, target: torch.device) -> Link:
    here = torch.empty(COPIED, dtype=torch.uint8, device=source)
    there = torch.empty(COPIED, dtype=torch.uint8, device=target)
    direct = torch.cuda.can_device_access_peer(source, target)
    ahead = copies_ahead(source, target)
    speed = rate(lambda: there.copy_(here, non_blocking=ahead), [source, target])
    return Link(source=str(source), target=str(target), rate=speed, direct=direct)


def rate(
    copy: Copy, devices: Sequence[torch.device], clock: Callable[[], float] = time.perf_counter, size: int = COPIED
) -> float:
    """Bytes a second of a copy of `size` bytes, the best of some: what else a machine does only makes it slower."""
    seconds: list[float] = []
    for _ in range(ROUNDS):
        _wait(devices)
        begun = clock()
        copy()
        _wait(devices)
        seconds.append(clock() - begun)
    return size / min(seconds)


def _wait(devices: Sequence[torch.device]) -> None:
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
