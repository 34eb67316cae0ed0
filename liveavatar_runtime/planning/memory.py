"""Memory that sampling needs beside the weights, predicted, and where the caches are on a device for it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from ..dit.kv_cache import CacheShape
from ..dit.placement import ON_DEVICE, Place, Placement, StoredType
from ..errors import MachineError
from ..texts import gib
from ..usual_sizes import smaller_sizes
from ..vae.memory import decode_bytes_per_pixel, encode_bytes_per_pixel
from .device import Device
from .memory_rows import Rows, rows_of, taken
from .moments import (
    activation_bytes,
    attention_bytes,
    blocks_bytes,
    embedding_bytes,
    packing_bytes,
    text_bytes,
    voice_bytes,
)
from .workload import Workload

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan
    from ..vae.config import VaeConfig

FP8_BYTES, SCALE_BYTES = 1, 4
"""Of one fp8 number, and of the scale of one token and head."""
BUFFERS = 2
"""Buffers of one layer's cache on the device when the cache is staged."""
SINKS = 2
"""Sinks of a staged cache that are there at one time."""

KVCacheChoice = Literal["auto", "device", "ram"]
KVTypeChoice = Literal["auto", "model", "fp8"]
ScheduleChoice = Literal["auto", "sequential", "batched"]


@dataclass(frozen=True)
class CacheChoice:
    """What a user wants of the caches, and in which order the steps of blocks are evaluated. "auto" of `kv_dtype` is
    the first of `LADDER` that fits (`settled`), and the model's where nobody knows what fits."""

    kv_cache: KVCacheChoice = "auto"
    kv_dtype: KVTypeChoice = "auto"
    schedule: ScheduleChoice = "auto"

    @property
    def stored(self) -> StoredType:
        return "fp8" if self.kv_dtype == "fp8" else "model"

    def places(self) -> list[Placement]:
        """Where the caches of a pipeline may be, the faster place first; it runs one step at a time."""
        return [Placement(place, self.stored) for place in self._places]

    def candidates(self) -> list[Placement]:
        """All ways for one device."""
        batched = [False, True] if self.schedule == "auto" else [self.schedule == "batched"]
        return [Placement(place, self.stored, batch) for place in self._places for batch in batched]

    def as_said(self) -> Placement:
        """The plainest placement of this kind, for devices that nobody here knows."""
        return Placement(self._places[0], self.stored, self.schedule == "batched")

    @property
    def _places(self) -> tuple[Place, ...]:
        return ("device", "ram") if self.kv_cache == "auto" else (self.kv_cache,)


ANYWHERE = CacheChoice()
LADDER: tuple[StoredType, ...] = ("model", "fp8")
"""What "auto" of `kv_dtype` tries, the best result first. A shorter window and fewer steps come next, but those are the
plan's, and a plan is never changed by itself."""


def settled(
    choice: CacheChoice, fits: Callable[[CacheChoice], bool], ladder: Sequence[StoredType] = LADDER
) -> CacheChoice:
    """The choice with a `kv_dtype` instead of "auto": the first that fits, or the last; its plan says what is missing.

    `fits` must not depend on what is free at the moment: the caches' dtype is part of what makes a video.
    """
    if choice.kv_dtype != "auto":
        return choice
    ways = [replace(choice, kv_dtype=stored) for stored in ladder]
    return next((way for way in ways if fits(way)), ways[-1])


def streamed_bytes(work: Workload, room: float, placement: Placement) -> float:
    """Bytes of the weights that find no room beside the work, and stay in system memory."""
    resident = resident_bytes(work, room, placement)
    return work.weights(work.layers) - resident + streaming_window(work) * (resident < work.weights(work.layers))


def resident_bytes(work: Workload, room: float, placement: Placement) -> float:
    """Bytes of weights on the device: all of them, or what finds room, with the layers that are under way."""
    weights = work.weights(work.layers)
    return min(weights, max(streaming_window(work), room - working_bytes(work, placement)))


def streaming_window(work: Workload) -> int:
    """Streamed weights need room for the layer that computes and the one that comes next."""
    weights = work.weights(work.layers)
    return min(weights, 2 * weights // work.config.num_layers)


def held_in_ram(work: Workload, room: float, placement: Placement) -> float:
    """System memory that caches and streamed weights need; weights that stay in their file need none."""
    return ram_bytes(work, placement) + max(0.0, streamed_bytes(work, room, placement) - work.on_disk_bytes)


def kept_bytes(shape: CacheShape, tokens: int, dtype: torch.dtype, stored: StoredType) -> int:
    """Keys and values of so many tokens in one layer, as they are kept."""
    values = shape.values(tokens)
    if stored == "model":
        return values * dtype.itemsize
    return values * FP8_BYTES + values // shape.head_dim * SCALE_BYTES


def cache_bytes(work: Workload, placement: Placement = ON_DEVICE) -> int:
    """Size of the key/value caches of all layers and steps, wherever they are."""
    shape = work.cache_shape
    if placement.resident:
        # Every step has a sink in front of its ring; what is turned of the reference's keys is there once more.
        layer = shape.values(shape.steps * shape.tokens) + _turned(shape)
        return work.config.num_layers * layer * work.dtype.itemsize
    others = work.config.num_layers - placement.device_layers
    return others * staged_layer_bytes(work, placement) + placement.device_layers * device_layer_bytes(work, placement)


def device_layer_bytes(work: Workload, placement: Placement) -> int:
    """Size of one of `Placement.device_layers`.

    Where they are read in place there is a sink for two steps each, in whose place a new one is made, and once more
    what is turned of the reference's keys; elsewhere the sinks of a staged layer.
    """
    if not placement.reads_in_place:
        return staged_layer_bytes(work, placement)
    shape = work.cache_shape
    sinks = max(SINKS, -(-shape.steps // 2))
    tokens = shape.steps * shape.ring_tokens + sinks * shape.sink_tokens
    return (shape.values(tokens) + _turned(shape)) * work.dtype.itemsize


def staged_layer_bytes(work: Workload, placement: Placement) -> int:
    """Size of one layer of a staged cache: the rings of all steps, and the sink.

    The sink counts twice: a new one is made beside the one that is read, when the reference picture is renewed.
    Measured on an H100, where leaving that out was 2 GiB too little at 688x368.
    """
    shape = work.cache_shape
    ring = kept_bytes(shape, shape.steps * shape.ring_tokens, work.dtype, placement.kv_dtype)
    return ring + SINKS * shape.values(shape.sink_tokens) * work.dtype.itemsize


def staging_bytes(work: Workload, placement: Placement) -> int:
    """Device memory beside the caches: buffers of a staged one; of a resident one, a new sink until it is copied, with
    what will be turned of its reference's keys."""
    shape = work.cache_shape
    if not placement.resident:
        return BUFFERS * shape.values(shape.tokens) * work.dtype.itemsize
    return work.config.num_layers * (shape.values(shape.sink_tokens) + _turned(shape)) * work.dtype.itemsize


def unpacking_bytes(work: Workload, placement: Placement) -> int:
    """Keys or values of one layer while they become numbers again that are kept as fp8: those that a block reads of a
    full ring, in float32."""
    shape = work.cache_shape
    tokens = shape.ring_tokens - shape.block_tokens
    return 4 * shape.values(tokens) // 2 if placement.kv_dtype == "fp8" else 0


def _turned(shape: CacheShape) -> int:
    """Values of the reference's keys in one layer that are turned whenever it moves."""
    return shape.reference_tokens * shape.heads * shape.temporal_channels


def ring_bytes(work: Workload, placement: Placement = ON_DEVICE) -> int:
    """Size of the state that sampling can be continued from (`LatentBlock.rings`), at most."""
    shape = work.cache_shape
    tokens = shape.steps * (shape.window_blocks - 1) * shape.block_tokens
    return work.config.num_layers * kept_bytes(shape, tokens, work.dtype, placement.kv_dtype)


def cache_traffic(work: Workload, placement: Placement) -> tuple[int, int]:
    """Bytes that a cache in RAM fetches and writes for one block, once the ring is full."""
    if placement.kv_cache == "device":
        return 0, 0
    shape = work.cache_shape
    others = kept_bytes(shape, shape.ring_tokens - shape.block_tokens, work.dtype, placement.kv_dtype)
    own = kept_bytes(shape, shape.block_tokens, work.dtype, placement.kv_dtype)
    sink = shape.values(shape.sink_tokens) * work.dtype.itemsize
    evaluations = (work.config.num_layers - placement.device_layers) * shape.steps
    return evaluations * (sink + others), evaluations * own


def working_rows(work: Workload, placement: Placement = ON_DEVICE) -> Rows:
    """Device memory of all of it, at the moment that takes most: caches that are there, buffers, prompt, blocks under
    way, activations."""
    return max(_evaluating(work, placement), _embedding(work), key=taken)


def shared_bytes(work: Workload, placement: Placement) -> int:
    """Of a device whose memory is the system's, where all caches are in it: as `working_bytes` with `ram_bytes`, but
    for what is there before the caches are."""
    evaluating = taken(_evaluating(work, placement)) + ram_bytes(work, placement)
    return int(max(evaluating, taken(_embedding(work))))


def _evaluating(work: Workload, placement: Placement) -> Rows:
    """While a layer computes, its FFN or its attention with a part of the cache, or before it a voice is encoded."""
    batched, staging = placement.batched, staging_bytes(work, placement)
    moments = (
        (activation_bytes(work, batched), 0),
        (attention_bytes(work, batched), unpacking_bytes(work, placement)),
        (voice_bytes(work) * work.embeds, 0),
    )
    activations, unpacked = max(moments, key=sum)
    return rows_of(
        [
            ("KV caches", cache_bytes(work, placement) - ram_bytes(work, placement)),
            ("staging buffers", staging + unpacked),
            ("prompt", text_bytes(work)),
            ("blocks under way", blocks_bytes(work, batched)),
            ("activations", activations),
        ]
    )


def _embedding(work: Workload) -> Rows:
    """Before there are caches."""
    return rows_of([("activations", max(embedding_bytes(work), packing_bytes(work)) * work.embeds)])


def working_bytes(work: Workload, placement: Placement = ON_DEVICE) -> int:
    """The sum of `working_rows`."""
    return int(taken(working_rows(work, placement)))


def ram_bytes(work: Workload, placement: Placement) -> int:
    """System memory that the caches need."""
    if placement.kv_cache == "device":
        return 0
    return (work.config.num_layers - placement.device_layers) * staged_layer_bytes(work, placement)


def decode_bytes(vae: "VaeConfig", plan: "ClipPlan", dtype: torch.dtype) -> int:
    """State of the streaming decoder and the peak of one block beside it.

    Both are about 25 * dim values for each pixel of a frame (1.14 GiB each for the released VAE at 688x368 in bf16).
    """
    return decode_bytes_per_pixel(vae, dtype) * plan.width * plan.height


def pose_bytes(vae: "VaeConfig", plan: "ClipPlan", dtype: torch.dtype) -> int:
    """State of the streaming encoder of a driving video and the peak of one block beside it."""
    return encode_bytes_per_pixel(vae, dtype) * plan.width * plan.height


def choose_placement(work: Workload, device: Device, choice: CacheChoice = ANYWHERE) -> Placement:
    """The placement that moves the fewest bytes between RAM and device for a block; of equals the plainest.

    Weights that find no room beside the work are streamed: once for every step, or once a block when batched. Room
    that is left when all weights are on the device goes to the caches of single layers. Raises MachineError when
    nothing fits, with what each setting saves.
    """
    candidates = choice.candidates()
    if choice.kv_cache == "auto":
        candidates += [_filled(work, device, c) for c in candidates if c.kv_cache == "ram"]
    fitting = [c for c in candidates if _fits(work, device, c)]
    if not fitting:
        raise MachineError(_Refusal(work, device).told(candidates))
    return min(fitting, key=lambda c: moved_bytes(work, device, c))


def fits(work: Workload, device: Device, choice: CacheChoice) -> bool:
    """Whether there is a placement."""
    return any(_fits(work, device, candidate) for candidate in choice.candidates())


def moved_bytes(work: Workload, device: Device, placement: Placement) -> float:
    """Bytes between RAM and device for one block: weights that are not resident, and the caches."""
    room = device.room - working_bytes(work, placement)
    streamed = max(0, work.weights(work.layers) - max(0, room))
    return streamed * (1 if placement.batched else work.plan.steps) + sum(cache_traffic(work, placement))


def _filled(work: Workload, device: Device, placement: Placement) -> Placement:
    """With as many layers' caches on the device as find room beside all weights."""
    room = device.room - work.weights(work.layers) - working_bytes(work, placement)
    every = work.config.num_layers
    each = device_layer_bytes(work, replace(placement, device_layers=1))
    layers = every if math.isinf(room) else int(room // each)
    return replace(placement, device_layers=min(max(0, layers), every))


def _fits(work: Workload, device: Device, placement: Placement) -> bool:
    weights = work.weights(work.layers)
    streaming = streaming_window(work) if device.streams else weights
    working, in_ram = working_bytes(work, placement), ram_bytes(work, placement)
    if device.usable_pool is not None:
        held = max(streaming, weights - work.on_disk_bytes)
        if held + device.occupied + shared_bytes(work, placement) > device.usable_pool:
            return False
        return working + streaming <= device.room and in_ram <= device.ram
    return working + streaming <= device.room and held_in_ram(work, device.room, placement) <= device.ram


@dataclass(frozen=True)
class _Refusal:
    """Why a plan does not fit on a device; what would help is `executors.plan_advice`."""

    work: Workload
    device: Device

    def told(self, candidates: list[Placement]) -> str:
        work, plan = self.work, self.work.plan
        least = min(candidates, key=lambda c: working_bytes(work, c))
        return (
            f"sampling {plan.width}x{plan.height} in {plan.steps} steps needs {self._needs(work, least)} beside the "
            f"weights; {self._there_is()}."
        )

    def _there_is(self) -> str:
        work, device = self.work, self.device
        if device.usable_pool is not None:
            held = work.weights(work.layers) - work.on_disk_bytes + device.occupied
            return (
                f"device and system share {gib(device.usable_pool)}, of which the weights and the VAE's work take "
                f"{gib(held)}, and {gib(device.ram)} are free"
            )
        there = "is unknown memory" if device.memory is None else f"are {gib(device.room)}"
        ram = gib(device.ram)
        return f"there {there} on the device and {ram} of RAM for caches and weights"

    def _needs(self, work: Workload, placement: Placement) -> str:
        """Of RAM with the weights that find no room on the device then."""
        shared = self.device.usable_pool is not None
        ram = ram_bytes(work, placement) if shared else held_in_ram(work, self.device.room, placement)
        return gib(working_bytes(work, placement)) + (f" + {gib(ram)} of RAM" if ram else "")


def cheaper_plans(plan: "ClipPlan") -> list[tuple[str, "ClipPlan"]]:
    """Plans with one setting lowered, by the name of the change."""
    ways = [
        (f"{w}x{h}", replace(plan, width=w, height=h, keep_aspect=False))
        for w, h in smaller_sizes(plan.width, plan.height)
    ]
    if plan.steps > 3:
        ways.append(("3 steps", replace(plan, steps=3)))
    if plan.window_blocks > 2:
        ways.append(("window_blocks 2", replace(plan, window_blocks=2)))
    return ways
