"""Decoding with the released VAE's sizes and random weights, beside ComfyUI's own: processor time, and the most bytes
of tensors that are there at one time."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from liveavatar_runtime.vae import WAN_2_1, DecodeState, WanVAE

from .paired import paired
from .peers import comfyui_vae
from .setup import Row, Setup

SMALL, LARGE = (16, 12), (48, 32)
"""(width, height) in latents: time is measured on the first, memory on the second, which is 384x256 pixels."""
PRIMING, BLOCK = 5, 3


def rows(setup: Setup) -> Iterator[Row]:
    if setup.comfyui is None:
        yield Row.skipped("decoding", "ComfyUI's modules: no folder was given with --comfyui")
        return
    torch.manual_seed(0)
    ours = WanVAE(WAN_2_1).eval().requires_grad_(False).to(setup.device)
    theirs = comfyui_vae(WAN_2_1, ours.state_dict())
    latents = torch.randn(1, 16, PRIMING + BLOCK, SMALL[1], SMALL[0], device=setup.device)
    with torch.inference_mode():
        found = paired(lambda: ours.decode(latents), lambda: theirs.decode(latents), setup.device, setup.few(5))
        yield Row("decoding", f"{PRIMING + BLOCK} latent frames, float32", "ComfyUI", found.as_row())
        if setup.device.type == "cpu":
            yield _peaks(ours, theirs)


def _peaks(ours: WanVAE, theirs: Any) -> Row:
    """Of 3 latent frames: ours after the priming, ComfyUI's in the same call as that, since it keeps no state."""
    latents = torch.randn(1, 16, PRIMING + BLOCK, LARGE[1], LARGE[0])
    state = DecodeState()
    ours.decode_stream(latents[:, :, :PRIMING], state)
    own = state.nbytes + peak_bytes(lambda: ours.decode_stream(latents[:, :, PRIMING:], state))
    peer = peak_bytes(lambda: theirs.decode(latents[:, :, -BLOCK:]))
    values = {"ours, GiB": own / 2**30, "peer, GiB": peer / 2**30, "ratio": own / peer}
    return Row("decoding", "peak of live tensors at 384x256, float32", "ComfyUI", values)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that work has allocated at one time on the processor, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = profiler.profiler.kineto_results if profiler.profiler is not None else None
    assert results is not None
    events: list[Any] = [event for event in results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
