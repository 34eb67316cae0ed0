"""Memory that sampling needs beside the weights, predicted from the plan."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from ..config import AvatarConfig
from ..dit.kv_cache import CacheShape
from ..dit.placement import ON_DEVICE, Placement
from ..dit.staged_cache import Place, StoredType
from ..duration import LATENT_FRAMES_PER_BLOCK
from ..errors import MachineError
from ..texts import gib
from ..usual_sizes import smaller_sizes
from ..vae.memory import decode_bytes_per_pixel

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
    """What a user wants of the caches, and in which order the steps of blocks are evaluated."""

    kv_cache: KVCacheChoice = "auto"
    kv_dtype: KVTypeChoice = "auto"
    schedule: ScheduleChoice = "auto"


def placements_of(kv_cache: KVCacheChoice, kv_dtype: KVTypeChoice) -> list[Placement]:
    """Where a user lets the caches of a pipeline be, the faster place first."""
    places: tuple[Place, ...] = ("device", "ram") if kv_cache == "auto" else (kv_cache,)
    return [Placement(place, "fp8" if kv_dtype == "fp8" else "model") for place in places]


def cache_shape(config: AvatarConfig, plan: "ClipPlan") -> CacheShape:
    return CacheShape.of(config, plan.grid, plan.steps, plan.window_blocks, LATENT_FRAMES_PER_BLOCK)


def kept_bytes(shape: CacheShape, tokens: int, dtype: torch.dtype, stored: StoredType) -> int:
    """Keys and values of so many tokens in one layer, as they are kept."""
    values = shape.values(tokens)
    if stored == "model":
        return values * dtype.itemsize
    return values * FP8_BYTES + values // shape.head_dim * SCALE_BYTES


def cache_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement = ON_DEVICE) -> int:
    """Size of the key/value caches of all layers and steps, wherever they are."""
    shape = cache_shape(config, plan)
    if placement.resident:
        # Every step has a sink in front of its ring; the reference's keys are there once more, not rotated.
        layer = shape.values(shape.steps * shape.tokens) + shape.values(shape.reference_tokens) // 2
        return config.num_layers * layer * dtype.itemsize
    return config.num_layers * staged_layer_bytes(config, plan, dtype, placement)


def staged_layer_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement) -> int:
    """Size of one layer of a staged cache: the rings of all steps, and the sink.

    The sink counts twice: a new one is made beside the one that is read, when the reference picture is renewed.
    Measured on an H100, where leaving that out was 2 GiB too little at 688x368.
    """
    shape = cache_shape(config, plan)
    ring = kept_bytes(shape, shape.steps * shape.ring_tokens, dtype, placement.kv_dtype)
    return ring + SINKS * shape.values(shape.sink_tokens) * dtype.itemsize


def staging_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement) -> int:
    """Device memory beside the caches: buffers of a staged one; of a resident one, a new sink until it is copied."""
    shape = cache_shape(config, plan)
    if not placement.resident:
        return BUFFERS * shape.values(shape.tokens) * dtype.itemsize
    return config.num_layers * shape.values(shape.sink_tokens) * dtype.itemsize


def ring_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement = ON_DEVICE) -> int:
    """Size of the state that sampling can be continued from (`LatentBlock.rings`), at most."""
    shape = cache_shape(config, plan)
    tokens = shape.steps * (shape.window_blocks - 1) * shape.block_tokens
    return config.num_layers * kept_bytes(shape, tokens, dtype, placement.kv_dtype)


def cache_traffic(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement) -> tuple[int, int]:
    """Bytes that a cache in RAM fetches and writes for one block, once the ring is full."""
    if placement.kv_cache == "device":
        return 0, 0
    shape = cache_shape(config, plan)
    others = kept_bytes(shape, shape.ring_tokens - shape.block_tokens, dtype, placement.kv_dtype)
    own = kept_bytes(shape, shape.block_tokens, dtype, placement.kv_dtype)
    sink = shape.values(shape.sink_tokens) * dtype.itemsize
    evaluations = (config.num_layers - placement.device_layers) * shape.steps
    return evaluations * (sink + others), evaluations * own


def activation_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, batched: bool = False) -> int:
    """Peak of one evaluation's (or one batch's) intermediate tensors.

    The widest moment is the FFN: its hidden layer before and after the activation, beside the residual and the
    modulated input in float32 and in the model's dtype.
    """
    rows, columns = plan.grid
    tokens = LATENT_FRAMES_PER_BLOCK * rows * columns * (plan.steps if batched else 1)
    return tokens * (2 * config.ffn_dim * dtype.itemsize + 3 * config.dim * 4 + 2 * config.dim * dtype.itemsize)


def text_bytes(config: AvatarConfig, dtype: torch.dtype) -> int:
    """Keys and values of the prompt for every layer."""
    return 2 * config.num_layers * config.text_len * config.dim * dtype.itemsize


def working_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement = ON_DEVICE) -> int:
    """Device memory of all of it: caches that are there, buffers, prompt, activations."""
    return (
        cache_bytes(config, plan, dtype, placement)
        - ram_bytes(config, plan, dtype, placement)
        + staging_bytes(config, plan, dtype, placement)
        + text_bytes(config, dtype)
        + activation_bytes(config, plan, dtype, placement.batched)
    )


def ram_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement) -> int:
    """System memory that the caches need."""
    if placement.kv_cache == "device":
        return 0
    return (config.num_layers - placement.device_layers) * staged_layer_bytes(config, plan, dtype, placement)


def decode_bytes(vae: "VaeConfig", plan: "ClipPlan", dtype: torch.dtype) -> int:
    """State of the streaming decoder and the peak of one block beside it.

    Both are about 25 * dim values for each pixel of a frame (1.14 GiB each for the released VAE at 688x368 in bf16).
    """
    return decode_bytes_per_pixel(vae, dtype) * plan.width * plan.height


# Sizes of the same kind from large to small, as (width, height).


UNKNOWN_MEMORY = 2**60
"""Bytes of a device that does not tell how many it has: it is taken to have enough."""


@dataclass(frozen=True)
class Machine:
    """Bytes: of the device in all, of system memory that is free, of the model's weights, and what else must be on
    the device while sampling (the VAE and its work).

    `pool`: of all system memory, where the device's is a part of it (processors, Apple's GPUs): there the same bytes
    must not be given away twice. `on_disk`: weights that stay in their file, which such a pool need not hold.
    """

    device: int
    ram: int
    weights: int
    beside: int = 0
    pool: int | None = None
    on_disk: int = 0


def choose_placement(
    config: AvatarConfig,
    plan: "ClipPlan",
    dtype: torch.dtype,
    machine: Machine,
    kv_cache: KVCacheChoice = "auto",
    kv_dtype: KVTypeChoice = "auto",
    schedule: ScheduleChoice = "auto",
) -> Placement:
    """The placement that moves the fewest bytes between RAM and device for a block; of equals the plainest.

    Weights that find no room beside the work are streamed: once for every step, or once a block when batched. Room
    that is left when all weights are on the device goes to the caches of single layers. "auto"
    of `kv_dtype` is the model's, because fp8 changes the result. Raises MachineError when nothing fits, with what
    each setting saves.
    """
    candidates = [
        Placement(place, "fp8" if kv_dtype == "fp8" else "model", batched)
        for place in _options(kv_cache, ("device", "ram"))
        for batched in ([False, True] if schedule == "auto" else [schedule == "batched"])
    ]
    if kv_cache == "auto":
        candidates += [_filled(config, plan, dtype, machine, c) for c in candidates if c.kv_cache == "ram"]
    fitting = [c for c in candidates if _fits(config, plan, dtype, machine, c)]
    if not fitting:
        raise MachineError(_what_would_help(config, plan, dtype, machine, candidates))
    return min(fitting, key=lambda c: moved_bytes(config, plan, dtype, machine, c))


def moved_bytes(
    config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, machine: Machine, placement: Placement
) -> int:
    """Bytes between RAM and device for one block: weights that are not resident, and the caches."""
    room = machine.device - machine.beside - working_bytes(config, plan, dtype, placement)
    streamed = max(0, machine.weights - max(0, room))
    caches = sum(cache_traffic(config, plan, dtype, placement))
    return streamed * (1 if placement.batched else plan.steps) + caches


def _filled(
    config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, machine: Machine, placement: Placement
) -> Placement:
    """With as many layers' caches on the device as find room beside all weights."""
    room = machine.device - machine.beside - machine.weights - working_bytes(config, plan, dtype, placement)
    layers = room // staged_layer_bytes(config, plan, dtype, placement)
    return replace(placement, device_layers=min(max(0, layers), config.num_layers))


def _options(choice: str, every: tuple[Place, ...]) -> list[Place]:
    return [option for option in every if choice in ("auto", option)]


def _fits(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, machine: Machine, placement: Placement) -> bool:
    # Streamed weights need room for the layer that computes and the one that comes next.
    streaming = min(machine.weights, 2 * machine.weights // config.num_layers)
    work = working_bytes(config, plan, dtype, placement) + machine.beside
    in_ram = ram_bytes(config, plan, dtype, placement)
    if machine.pool is not None:
        held = max(streaming, machine.weights - machine.on_disk)
        if held + work + in_ram > machine.pool:
            return False
    return work + streaming <= machine.device and in_ram <= machine.ram


def _what_would_help(
    config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, machine: Machine, candidates: list[Placement]
) -> str:
    least = min(candidates, key=lambda c: working_bytes(config, plan, dtype, c))
    ways = [f"{name}: {_needs(config, changed, dtype, least)}" for name, changed in cheaper_plans(plan)]
    ways += [
        f"{name}: {_needs(config, plan, dtype, changed)}"
        for name, changed in (
            ("kv_cache ram", replace(least, kv_cache="ram")),
            ("kv_dtype fp8", replace(least, kv_dtype="fp8")),
        )
        if changed != least
    ]
    return (
        f"sampling {plan.width}x{plan.height} in {plan.steps} steps needs {_needs(config, plan, dtype, least)} beside "
        f"the weights; {_there_is(machine)}. What it would be with one change - {'; '.join(ways)}. See Clip Scheduler "
        "(size, steps, window_blocks) and DiT Sampler (kv_cache, kv_dtype)."
    )


def _there_is(machine: Machine) -> str:
    if machine.pool is not None:
        held = machine.weights - machine.on_disk + machine.beside
        return (
            f"device and system share {gib(machine.pool)}, of which the weights and the VAE's work take {gib(held)}, "
            f"and {gib(machine.ram)} are free"
        )
    device = "is unknown memory" if machine.device == UNKNOWN_MEMORY else f"are {gib(machine.device)}"
    return f"there {device} on the device and {gib(machine.ram)} of free RAM"


def _needs(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement) -> str:
    ram = ram_bytes(config, plan, dtype, placement)
    return gib(working_bytes(config, plan, dtype, placement)) + (f" + {gib(ram)} of RAM" if ram else "")


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
