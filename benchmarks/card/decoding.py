"""Decoding by itself and beside sampling: milliseconds of a block, frames a second of both, the first block."""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveavatar_runtime.dit.placement import ON_DEVICE
from liveavatar_runtime.duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from liveavatar_runtime.executors.advisor import Advisor
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.table import DEFAULT
from liveavatar_runtime.media.threads import ThreadPipeline
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.forecast import Setting
from liveavatar_runtime.planning.machines import ON_NVLINK_H800, Machines
from liveavatar_runtime.planning.memory import decode_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.evaluator import PlacedModel
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import PRIMING_LATENTS
from liveavatar_runtime.sampling.run import LatentBlock, SamplingRequest
from liveavatar_runtime.vae import DecodeState, PlacedVAE, WanVAE
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

from . import models, rates
from .bench import GIB, Bench, OutOfMemory, dtype_name
from .fits import check_weights, chosen_placement
from .packed import make_packages_importable
from .predicted import predicted_card

BF16 = torch.bfloat16
SQUARE = 16
"""Pixels."""
WARM = 2
"""Blocks of latents before the measured ones."""


@dataclass(frozen=True)
class Decoded:
    """Seconds of a block; bytes of the state, and of the peak beside the weights (None on a processor)."""

    seconds: float
    state: int
    peak: int | None


def vae_blocks(bench: Bench) -> None:
    """Every size in bf16, the main one in fp16 and fp32 too (with tf32, as users have it)."""
    cases = [(size, BF16) for size in models.sizes(bench)]
    # A processor takes seconds for a frame in fp16.
    others = (torch.float16, torch.float32) if bench.on_card else (torch.float32,)
    cases += [(models.main_size(bench), dtype) for dtype in others]
    for size, dtype in cases:
        vae = models.random_vae(models.vae_config(bench), dtype, bench.device)
        found = bench.attempt(lambda vae=vae, size=size: _decode(bench, vae, size))
        name = f"{size[0]}x{size[1]} in {dtype_name(dtype)}"
        if isinstance(found, OutOfMemory):
            bench.record.skip(f"VAE, {name}: {found.message}")
        else:
            _row(bench, size, dtype, found)
        del vae
        bench.empty()


def _decode(bench: Bench, vae: WanVAE, size: tuple[int, int]) -> Decoded:
    plan = models.plan_of(bench, size)
    height, width = plan.latent_size
    state = DecodeState()
    before = bench.allocated()

    def block() -> Tensor:
        latents = torch.randn(1, 16, LATENT_FRAMES_PER_BLOCK, height, width, device=bench.device)
        return vae.decode_stream(latents, state)

    with torch.inference_mode(), bench.watched() as peak:
        seconds = bench.median_of(block, rounds=10, warm_ups=WARM)
    return Decoded(seconds, state.nbytes, None if peak.allocated is None else peak.allocated - before)


def _row(bench: Bench, size: tuple[int, int], dtype: torch.dtype, found: Decoded) -> None:
    plan, name = models.plan_of(bench, size), f"{size[0]}x{size[1]}"
    work = Workload(models.large_config(bench), plan, dtype)
    planned = decode_bytes(models.vae_config(bench), plan, dtype)
    peak = None if found.peak is None else found.peak / GIB
    bench.record.row(
        "VAE, a block decoded by itself",
        size=name,
        dtype=dtype_name(dtype),
        ms=1e3 * found.seconds,
        **{"frames a second": FRAMES_PER_BLOCK / found.seconds, "TFLOP/s": work.decode_flops() / found.seconds / 1e12},
        **{"state, GiB": found.state / GIB, "planned, GiB": planned / GIB, "used, GiB": peak},
    )
    if peak is not None:
        bench.record.compare(f"memory of decoding, {name} in {dtype_name(dtype)}", planned / GIB, peak, "GiB")
    if dtype != BF16:
        return
    card = predicted_card(bench, rates.matmul_rate(bench, BF16))
    bench.record.compare(f"decoding a block, {name}", 1e3 * work.decode_flops() / card.flops, 1e3 * found.seconds, "ms")
    if size == models.main_size(bench):
        bench.record.rate("decoding", work.decode_flops() / found.seconds)


@dataclass(frozen=True)
class Shown:
    """Seconds after the start at which each block was decoded."""

    blocks: list[float]

    @property
    def fps(self) -> float:
        """Once the ring is full."""
        later = self.blocks[min(5, len(self.blocks) - 2) :]
        return FRAMES_PER_BLOCK * (len(later) - 1) / (later[-1] - later[0])


def end_to_end(bench: Bench) -> None:
    """Sampling with decoding in a thread beside it, as the nodes do; and the time until the first block. The last run
    writes a file too, where PyAV is."""
    config, size = models.large_config(bench), models.main_size(bench)
    check_weights(bench, BF16.itemsize)
    model = bench.shared(f"model plain {BF16}", lambda: models.random_model(config, BF16, bench.device))
    vae = models.random_vae(models.vae_config(bench), BF16, bench.device)
    plan = models.plan_of(bench, size)
    decoder = sum(p.numel() * p.element_size() for p in vae.parameters())
    occupied = decoder + decode_bytes(models.vae_config(bench), plan, BF16)
    work = Workload(config, plan, BF16, BF16.itemsize)
    placement = chosen_placement(bench, work, batched=False, occupied=occupied)
    executor = LocalExecutor.placed(PlacedModel(model, bench.device), BF16, placement)
    runs = {"first": False, "second": False}
    if bench.comfyui is not None:
        make_packages_importable(bench.comfyui)
    if find_spec("av") is None:
        bench.record.skip("writing a file: PyAV is not installed; benchmarks.card.pack packs it")
    else:
        runs["written to a file"] = True
    measured: Shown | None = None
    for name, written in runs.items():
        found = bench.attempt(lambda written=written: _video(bench, executor, vae, size, written))
        if isinstance(found, OutOfMemory):
            bench.record.skip(f"end to end: {found.message}")
            break
        _shown(bench, f"{name}, {placement}", size, found)
        measured = measured if written else found
    if measured is not None:
        _against_plan(bench, size, measured)


def _shown(bench: Bench, name: str, size: tuple[int, int], found: Shown) -> None:
    gaps = [b - a for a, b in zip(found.blocks, found.blocks[1:], strict=False)]
    bench.record.row(
        "End to end, decoding beside sampling",
        run=name,
        size=f"{size[0]}x{size[1]}",
        **{"frames a second": found.fps, "first block, s": found.blocks[0]},
        **{"a block, median, ms": 1e3 * statistics.median(gaps), "slowest, ms": 1e3 * max(gaps)},
    )


def _video(bench: Bench, executor: LocalExecutor, vae: WanVAE, size: tuple[int, int], written: bool) -> Shown:
    plan = models.plan_of(bench, size)
    conditions = models.random_conditions(executor.model.config, plan)
    blocks, start, shown = 4 if bench.tiny else 11, time.perf_counter(), []
    height, width = plan.latent_size
    decoder = OnlineDecoder(PlacedVAE(vae, bench.device, BF16), torch.randn(16, PRIMING_LATENTS, height, width), "hold")

    def decode(block: LatentBlock) -> Tensor:
        return decoder.decode(block.latents)

    def tell(pixels: object) -> None:
        shown.append(time.perf_counter() - start)

    run = executor.run(SamplingRequest(conditions, plan))
    try:
        with ExitStack() as stack:
            stages: list[Callable[[Any], Any]] = [decode]
            if written:
                stages.append(_encoder(stack, plan))
            stages[-1] = _then(stages[-1], tell)
            with ThreadPipeline(stages) as pipeline:
                for _ in range(blocks):
                    pipeline.put(next(run))
    finally:
        run.close()
    return Shown(shown)


def _then(function: Callable[[Any], Any], tell: Callable[[object], None]) -> Callable[[Any], Any]:
    def both(item: Any) -> Any:
        result = function(item)
        tell(result)
        return result

    return both


def _encoder(stack: ExitStack, plan: ClipPlan) -> Callable[[Tensor], None]:
    """Writes frames, made of squares of one colour each: noise, which random weights decode to, takes an encoder much
    longer than pictures do."""
    from liveavatar_runtime.media.images import to_uint8_frames
    from liveavatar_runtime.media.video import PictureTrack, VideoWriter

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    picture = PictureTrack(plan.width, plan.height, plan.fps)
    writer = stack.enter_context(VideoWriter(Path(folder) / "video.mp4", picture))

    def encode(pixels: Tensor) -> None:
        squares = pixels[..., ::SQUARE, ::SQUARE].repeat_interleave(SQUARE, 2).repeat_interleave(SQUARE, 3)
        writer.write_frames(to_uint8_frames(squares[..., : plan.height, : plan.width]))

    return encode


def _against_plan(bench: Bench, size: tuple[int, int], found: Shown) -> None:
    """Of one card that decodes too."""
    card = predicted_card(bench, rates.matmul_rate(bench, BF16))
    work = Workload(models.large_config(bench), models.plan_of(bench, size))
    options = Advisor(work, _machine(card)).options_of(Setting(ON_DEVICE))
    option = next(option for option in options if option.executor == DEFAULT)
    name = f"{size[0]}x{size[1]}"
    bench.record.compare(f"frames a second, end to end, {name}", option.fps.likely, found.fps, "1/s")
    bench.record.compare(f"first block, {name}", option.first_block.likely, found.blocks[0], "s")


def _machine(card: Device) -> Machines:
    # Much memory: this is about speed, and what fits is measured elsewhere.
    roomy = Device(name=card.name, memory=1000 * GIB, flops=card.flops)
    return Machines.of(card.name, roomy, (1,), ON_NVLINK_H800)
