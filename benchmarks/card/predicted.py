"""What the planner says of a card, before it was measured."""

from dataclasses import replace

from liveavatar_runtime.planning.calibration import short_name
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.presets import A100, H800, PREDICTED, RTX_4090

from .bench import Bench

SAME_CHIP = {"H100": H800, "H200": H800, "H800": H800, "A100": A100, "A800": A100, "RTX 4090": RTX_4090}
"""Cards by their short names; those with the same chip do the same arithmetic."""
USUAL_SHARE = 0.5
"""Of the large product's rate, for a card that the planner does not know (`Device.flops`)."""


def predicted_card(bench: Bench, matmul: float) -> Device:
    """As the planner assumes it without a calibration; `matmul`: the measured rate, for cards that it does not know."""
    name = short_name(card_name(bench))
    memory = bench.total_memory()
    known = SAME_CHIP.get(name)
    if known is None:
        return Device(name=name, memory=memory, flops=USUAL_SHARE * matmul)
    assumed = next(card for card in PREDICTED if card.name == known.name)
    return replace(assumed, name=name, memory=memory)


def card_name(bench: Bench) -> str:
    if not bench.on_card:
        return "processor"
    import torch

    return torch.cuda.get_device_name(bench.device)
