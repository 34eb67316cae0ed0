"""Sockets that all Finish nodes have: the steps before and with their own."""

from comfy_api.latest import io

from .types import FinishingSocket


def finishing_input() -> io.Input:
    """Last among a node's inputs."""
    return FinishingSocket.Input(
        "finishing", optional=True, tooltip="The steps before this one, from another Finish node."
    )


def finishing_output() -> io.Output:
    return FinishingSocket.Output(
        "finishing",
        display_name="finishing",
        tooltip="The steps with this one, for Online VAE Decode or the next Finish node.",
    )
