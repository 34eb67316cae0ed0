"""Measures the demo model in its pictures: `python -m benchmarks.quality` prints and writes `benchmarks/RESULTS.md`.

People, voices, sentences and prompts are none that it was trained on; videos come from the real runtime.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import ROOT, measures
from demo.training.dataset import shown_motion
from demo.training.portraits import Person, Pose, draw, draw_person
from demo.training.text import TextEncoder, random_prompt
from demo.training.train_vae import PEOPLE
from demo.training.voices import RATE, voice_of
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.wav2vec2 import Wav2Vec2Encoder, load_wav2vec2
from liveavatar_runtime.checkpoint.bundle import Bundle, find_bundle
from liveavatar_runtime.checkpoint.safetensors_io import read_json, read_weight_file
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, Prepared, prepare
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae import PlacedVAE, WanVAE, load_wan_vae
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

CPU = torch.device("cpu")
FPS = Fraction(25)
CLIP, BLOCK, LATENT = 48, 12, 4
"""In frames."""


@dataclass(frozen=True)
class Demo:
    """The parts of the bundle, in float32."""

    bundle: Bundle
    vae: WanVAE
    audio: Wav2Vec2Encoder
    text: TextEncoder

    @classmethod
    def load(cls, folder: Path) -> "Demo":
        bundle = find_bundle(folder)
        assert bundle.vae and bundle.wav2vec2 and bundle.text_config
        weights = read_weight_file(bundle.wav2vec2)[0]
        return cls(
            bundle,
            load_wan_vae(read_weight_file(bundle.vae)[0], dtype=torch.float32),
            load_wav2vec2(weights, read_json(bundle.wav2vec2 / "config.json")),
            TextEncoder(bundle.text_config.parent),
        )

    def heard(self, voice: Tensor, rate: int = RATE) -> AvatarAudio:
        """A voice [1, S], encoded in one pass."""
        return AvatarAudio(self.audio.encode_long(voice, rate)[None], voice, rate)

    @property
    def placed_vae(self) -> PlacedVAE:
        return PlacedVAE(self.vae, CPU, torch.float32)


@dataclass(frozen=True)
class Scene:
    """A person, a voice [1, S] and a prompt, with the colour word in it."""

    person: Person
    voice: Tensor
    prompt: str
    word: str | None


@dataclass(frozen=True)
class Measured:
    """Figures of a stretch of a video."""

    sync: float
    lag: int
    identity: float


def scene(number: int, seconds: float, coloured: float = 0.0) -> Scene:
    """Held-out person, voice and prompt number `number`."""
    rng = np.random.default_rng([77, number])
    prompt, word = random_prompt(rng, held_out=True, coloured=coloured)
    return Scene(draw_person(PEOPLE + 1 + number), voice_of(rng, seconds, held_out=True), prompt, word)


def prepared(demo: Demo, what: Scene, clips: int, steps: int = 4, seed: int = 7) -> Prepared:
    plan = ClipPlan(num_clip=clips, fps=FPS, width=64, height=64, seed=seed, steps=steps)
    audio = demo.heard(what.voice)
    picture = torch.from_numpy(draw(what.person, Pose(), 512)).float() / 255
    config = load_transformer(demo.bundle.model).config
    return prepare(plan, config, Inputs(picture, demo.text.encode(what.prompt), audio), demo.placed_vae)


def generate(
    demo: Demo, ready: Prepared, dtype: torch.dtype = torch.float32, shown: Callable[[int], bool] = lambda block: True
) -> np.ndarray:
    """Frames uint8 [T, 64, 64, 3] of the blocks that `shown` chooses (the others are sampled, not decoded)."""
    model = load_transformer(demo.bundle.model, dtype=dtype)
    executor = LocalExecutor(model, CPU, dtype)
    decoder = OnlineDecoder(demo.placed_vae, ready.priming, "hold")
    parts = [
        decoder.decode(block.latents)
        for block in executor.run(SamplingRequest(ready.conditions, ready.plan))
        if shown(block.index)
    ]
    pixels = torch.cat(parts, dim=1).permute(1, 2, 3, 0)
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def measure(what: Scene, frames: np.ndarray, first: int = 0) -> Measured:
    """Figures of frames [first, first + T) of the scene's video."""
    reference = draw(what.person, Pose())
    energy = measures.frame_energy(what.voice[0].numpy(), RATE, float(FPS), first + len(frames))[first:]
    opening = measures.mouth_opening(frames, reference)
    still = measures.still_parts(what.person, wall_too=what.word is None)
    identity = measures.psnr(frames[:, still], np.broadcast_to(reference[still], (len(frames), still.sum(), 3)))
    return Measured(measures.correlation(opening, energy), measures.best_lag(opening, energy), identity)


def row(name: str, value: str, target: str, met: bool) -> str:
    return f"| {name} | {value} | {target} | {'yes' if met else '**no**'} |"


def lip_sync(demo: Demo) -> list[str]:
    """One minute in one stream: the mouth follows the voice, without delay, from the first to the last second."""
    what = scene(0, 60.0)
    # The last clip is longer than the voice.
    frames = generate(demo, prepared(demo, what, clips=32))[: int(60 * FPS)]
    tail = int(10 * FPS)
    all_of_it, last = measure(what, frames), measure(what, frames[-tail:], len(frames) - tail)
    at_block, at_clip = (measures.seam_ratio(frames, border, 1) for border in (BLOCK, CLIP))
    at_latent = measures.seam_ratio(frames, LATENT, 1)
    ceiling = ideal_sync(what, 0, len(frames))
    return [
        row(
            f"lip sync over 60 s (correlation; a perfect drawing has {ceiling:.3f})",
            f"{all_of_it.sync:.3f}",
            ">= 0.8",
            all_of_it.sync >= 0.8,
        ),
        row("best lag over 60 s (frames)", f"{all_of_it.lag:+d}", "0 +- 1", abs(all_of_it.lag) <= 1),
        row("best lag over the last 10 s (frames)", f"{last.lag:+d}", "0 +- 1", abs(last.lag) <= 1),
        row("seam at block borders (x median of all other frames)", f"{at_block:.2f}", "<= 1.5", at_block <= 1.5),
        row("seam at clip borders (x median of all other frames)", f"{at_clip:.2f}", "<= 1.5", at_clip <= 1.5),
        row("seam at latents' borders (x median of all other frames)", f"{at_latent:.2f}", "<= 1.5", at_latent <= 1.5),
    ]


def people_and_prompts(demo: Demo, count: int) -> list[str]:
    """Many short videos of held-out people: likeness without a colour word, the right wall with one."""
    plain = [scene(100 + n, 6.0) for n in range(count // 2)]
    coloured = [scene(200 + n, 3.0, coloured=1.0) for n in range(count)]
    results = [measure(what, generate(demo, prepared(demo, what, clips=2))) for what in plain]
    walls = [(what, generate(demo, prepared(demo, what, clips=1))) for what in coloured]
    identity = float(np.mean([result.identity for result in results]))
    repainted = float(np.mean([measure(what, frames).identity for what, frames in walls]))
    sync = float(np.mean([result.sync for result in results]))
    right = float(np.mean([measures.wall_word(frames[-24:]) == what.word for what, frames in walls]))
    return [
        row(f"identity, {len(plain)} people, still parts (PSNR)", f"{identity:.1f} dB", ">= 24 dB", identity >= 24),
        row(f"identity, {count} people before another wall", f"{repainted:.1f} dB", ">= 24 dB", repainted >= 24),
        row(f"lip sync, mean of {len(plain)} people", f"{sync:.3f}", ">= 0.8", sync >= 0.8),
        row(f"wall colour of {count} prompts", f"{100 * right:.0f} %", ">= 90 %", right >= 0.9),
    ]


def ideal_sync(what: Scene, first: int, frames: int) -> float:
    """Lip sync of a perfect drawing of the motion that was trained."""
    energy = measures.frame_energy(what.voice[0].numpy(), RATE, float(FPS), first + frames)[first:]
    return measures.correlation(shown_motion(what.voice).aligned(first, frames, FPS)[0, 0, 0].numpy(), energy)


def length(demo: Demo, clips: int) -> list[str]:
    """The last 20 clips of a long stream against its first 20. Both speak the same, so that only drift can differ."""
    what = scene(1, clips * CLIP / float(FPS))
    same = int(20 * CLIP / FPS * RATE)
    what.voice[:, -same:] = what.voice[:, :same]
    ready = prepared(demo, what, clips)
    part, blocks = 20 * CLIP // BLOCK, ready.plan.num_blocks
    warm_up = 4  # blocks that the decoder sees before those that are measured
    frames = generate(demo, ready, shown=lambda b: b < part or b >= blocks - part - warm_up)
    first = measure(what, frames[: part * BLOCK])
    last = measure(what, frames[-part * BLOCK :], (blocks - part) * BLOCK)
    sync, identity = last.sync - first.sync, last.identity - first.identity
    name = f"last 20 of {clips} clips"
    return [
        row(f"{name}: lip sync", f"{last.sync:.3f} ({sync:+.3f})", "within 0.05 of the first", abs(sync) <= 0.05),
        row(f"{name}: lag (frames)", f"{last.lag:+d}", "0 +- 1", abs(last.lag) <= 1),
        row(f"{name}: identity", f"{last.identity:.1f} dB ({identity:+.2f})", "within 1 dB", abs(identity) <= 1),
    ]


def variants(demo: Demo) -> list[str]:
    """Fewer steps and half precision against four steps in float32, on the same noise."""
    what = scene(2, 12.0)
    ready = prepared(demo, what, clips=4)
    base = generate(demo, ready)
    published = {"3 steps": "-0.008 SSIM", "float16": "< 0.2 dB", "bfloat16": "-"}
    runs = {
        "3 steps": lambda: generate(demo, replace(ready, plan=replace(ready.plan, steps=3))),
        "bfloat16": lambda: generate(demo, ready, torch.bfloat16),
        "float16": lambda: generate(demo, ready, torch.float16),
    }
    lines = ["| variant | SSIM to 4 steps float32 | PSNR | identity (4 steps: {:.2f} dB) | published |"]
    lines = [lines[0].format(measure(what, base).identity), "| --- | --- | --- | --- | --- |"]
    for name, run in runs.items():
        frames = run()
        psnr, ssim = measures.psnr(frames, base), measures.ssim(frames, base)
        identity = measure(what, frames).identity
        lines.append(f"| {name} | {ssim:.4f} | {psnr:.1f} dB | {identity:.2f} dB | {published[name]} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "demo" / "liveavatar-demo")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "RESULTS.md")
    parser.add_argument("--people", type=int, default=24, help="short videos with a colour word; half as many without")
    parser.add_argument("--clips", type=int, default=300, help="length of the long stream")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo = Demo.load(arguments.bundle)
    started = time.monotonic()
    lines = ["| figure | measured | target | met |", "| --- | --- | --- | --- |"]
    parts = (
        lip_sync,
        lambda demo: people_and_prompts(demo, arguments.people),
        lambda demo: length(demo, arguments.clips),
        lambda demo: ["", *variants(demo)],
    )
    for part in parts:
        found = part(demo)
        print("\n".join(found), flush=True)
        lines += found
    minutes = (time.monotonic() - started) / 60
    text = "\n".join(
        [
            "# Measured quality of the demo model",
            "",
            f"By `python -m benchmarks.quality` in {minutes:.1f} minutes on a CPU: 64 x 64 pixels, 25 frames a second,",
            "people, voices, sentences and prompts that were not trained on, decoded frames of the real runtime. "
            "The first",
            "and the last clips of the long stream speak the same, so that only drift makes them differ.",
            "",
            *lines,
            "",
        ]
    )
    arguments.output.write_text(text, encoding="utf-8")
    print(arguments.output)


if __name__ == "__main__":
    main()
