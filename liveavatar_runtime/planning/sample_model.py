"""Seconds that the parts of an evaluation take on a device, measured with a model of two layers and random weights."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import cycle

import torch
from torch import Tensor

from ..config import AvatarConfig
from ..dit.attention import KeysValues
from ..dit.audio import prepare_injection
from ..dit.kv_cache import ResidentCache, Sink
from ..dit.model import BlockContext, BlockPlace, CausalWanS2V, Row, VideoContext
from ..duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from .memory import working_bytes
from .workload import PartCosts, Workload

WARM_UPS, ROUNDS, MOST_ROUNDS = 2, 5, 30
ENOUGH_SECONDS = 0.1
"""After which no more than ROUNDS are needed: only short calls are disturbed much by what else a machine does."""
SPREAD = 0.02
"""Of the random weights."""
LATE_BLOCK = 100
"""One that finds a full ring and is past the reference picture's first position."""
PLAIN, VOICED = range(1), range(1, 2)
"""The two layers: the voice is injected after the second one."""


def sample_of(work: Workload) -> Workload:
    """The two layers and one step that are measured, of the same width and tokens."""
    injected = VOICED[:] if work.config.audio_inject_layers else ()
    config = replace(work.config, num_layers=2, audio_inject_layers=tuple(injected))
    return Workload(config, replace(work.plan, steps=1), work.dtype, work.dtype.itemsize)


def sample_bytes(work: Workload) -> int:
    """Memory that measuring takes on the device."""
    sample = sample_of(work)
    return sample.weights(range(2)) + working_bytes(sample)


def sample_flops(work: Workload) -> float:
    """Operations of the whole measurement."""
    costs = sample_of(work).counted_flops
    return (WARM_UPS + ROUNDS) * (2 * costs.layer + costs.voice + costs.first + costs.last)


def measure_parts(work: Workload, device: torch.device) -> PartCosts:
    """Seconds of an evaluation in steady state, with PyTorch's attention; afterwards the memory is free again."""
    with torch.inference_mode():
        seconds = typical_seconds(_Sample.make(sample_of(work), device).parts(), device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
    return costs_of(seconds, work.plan.steps)


def layer_call(work: Workload, device: torch.device) -> Callable[[], object]:
    """One layer without the voice over a full ring, as `measure_parts` times it; to be called any number of times."""
    with torch.inference_mode():
        layer = _Sample.make(sample_of(work), device).parts()["plain"]

    def call() -> object:
        with torch.inference_mode():
            return layer()

    return call


def costs_of(found: Mapping[str, float], steps: int) -> PartCosts:
    """From what each of the sample's parts takes; what is done once a block is shared out over its steps."""
    voice = max(0.0, found["voiced"] - found["plain"]) + found["injection"] / steps
    return PartCosts(found["plain"], voice, found["embed"] + found["begin"] / steps, found["head"])


def typical_seconds(calls: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Of each call, the lower quartile: what else the machine does only adds. They take turns, so it touches all."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for number in range(WARM_UPS + MOST_ROUNDS):
        if number >= WARM_UPS + ROUNDS and time.perf_counter() - begun > ENOUGH_SECONDS:
            break
        for name, call in calls.items():
            _finish(device)
            start = time.perf_counter()
            call()
            _finish(device)
            taken[name].append(time.perf_counter() - start)
    return {name: sorted(times[WARM_UPS:])[(len(times) - WARM_UPS) // 4] for name, times in taken.items()}


def _finish(device: torch.device) -> None:
    """Wait until a card has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class _Sample:
    """The model, a block at its only step, and what the block needs."""

    work: Workload
    device: torch.device
    model: CausalWanS2V
    features: Tensor
    video: VideoContext
    block: BlockContext

    @classmethod
    def make(cls, work: Workload, device: torch.device) -> "_Sample":
        config, dtype = work.config, work.dtype
        model = _random_model(config, dtype, device)
        features = torch.zeros(1, config.audio_layers, config.audio_dim, FRAMES_PER_BLOCK)
        text = torch.zeros(config.text_len, config.text_dim)
        video = model.video_context(text, (500.0,), model.layers, dtype, device)
        voice = model.embed_audio(features, dtype, device)
        place = BlockPlace(LATE_BLOCK, LATENT_FRAMES_PER_BLOCK, work.plan.grid)
        block = model.block_context(place, voice, model.layers)
        return cls(work, device, model, features, video, block)

    def parts(self) -> dict[str, Callable[[], object]]:
        """The parts of an evaluation, to be called any number of times."""
        model, dtype, plan = self.model, self.work.dtype, self.work.plan
        noise = plan.block_noise(0)[None].to(device=self.device, dtype=dtype)
        hidden = model.embed(noise)
        voice = model.embed_audio(self.features, dtype, self.device)

        def begin() -> None:
            plan.block_noise(0).to(self.device)
            model.embed_audio(self.features, dtype, self.device)

        def injection() -> None:
            if self.block.injections:
                prepare_injection(model.audio_injector, 0, voice, self.work.config.head_dim)

        row = Row(self.block, 0, Sink(), 17)
        return {
            "plain": self._layers(PLAIN, hidden),
            "voiced": self._layers(VOICED, hidden),
            "embed": lambda: model.embed(noise),
            "begin": begin,
            "injection": injection,
            "head": lambda: model.velocity(hidden, self.video, [row]),
        }

    def _layers(self, layers: range, hidden: Tensor) -> Callable[[], object]:
        """Some layers with their cache; the reference moves along with every block, as in a video."""
        shape = self.work.cache_shape
        cache, sink = ResidentCache(shape, layers, self.work.dtype, self.device), Sink()
        empty = torch.zeros(1, shape.sink_tokens, shape.heads, shape.head_dim, dtype=hidden.dtype, device=self.device)
        for layer in layers:
            cache.keep_sink(sink, layer, KeysValues(empty, empty), empty)
        rows = cycle([Row(self.block, 0, sink, distance) for distance in (17, 18)])
        return lambda: self.model.run_layers(hidden, self.video, [next(rows)], cache)


def _random_model(config: AvatarConfig, dtype: torch.dtype, device: torch.device) -> CausalWanS2V:
    """Filled from a generator of its own: nobody else's random numbers change."""
    model = CausalWanS2V(config, device="meta", dtype=dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0.0, SPREAD, generator=generator)
    return model.eval().requires_grad_(False)
