"""What a voice with bounded context loses, on the demo model and speech that it was not trained on.

    python -m benchmarks.bounded_voice

Writes benchmarks/results/bounded_voice.md and bounded_voice.png: for each look-ahead and look-back of the windows, how
far the features depart from those of the whole voice, and the mouth in sampled videos. Needs espeak-ng.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks import ROOT, measures, quality
from benchmarks.quality import FPS, Demo, Scene
from demo.training.portraits import Pose, draw
from demo.training.voices import RATE, voice_of
from liveavatar_runtime.audio.bounded import BOUNDED, BoundedContext, BoundedTrack, HeardSound
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.windows import EncodedWindows
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.dit.audio import mix_layers
from liveavatar_runtime.duration import FEATURE_RATE
from liveavatar_runtime.sampling.conditions import AlignedAudio
from liveavatar_runtime.sampling.prepare import Prepared

RESULTS = ROOT / "benchmarks" / "results"
AHEAD = (0.1, 0.2, 0.5, 1.0, 1.5, 2.0)
BACK = (1, 2, 5, 10, 20)
STEPS = (0.5, 1.0, 2.0)
"""Seconds."""
PAUSE, NOISE = 15, 1e-3
"""Seconds between two sentences, and the noise of the room in it (-60 dB of full scale)."""


def context(step: float, back: float, ahead: float) -> BoundedContext:
    """Of seconds."""
    step, look_back, look_ahead = (round(seconds * FEATURE_RATE) for seconds in (step, back, ahead))
    return BoundedContext(step, look_back, look_ahead)


CHOSEN = float(BOUNDED.step / FEATURE_RATE), BOUNDED.look_back / FEATURE_RATE, BOUNDED.look_ahead / FEATURE_RATE


def bounded(demo: Demo, voice: Tensor, how: BoundedContext) -> AvatarAudio:
    heard = HeardSound(voice, RATE, "", context=how)
    windows = EncodedWindows(demo.audio.encode_prepared, heard, BoundedTrack(how))
    windows.need(0, heard.frames)
    return AvatarAudio.of_bounded(windows, heard)


def in_windows(demo: Demo, how: BoundedContext) -> "Encode":
    return lambda voice: bounded(demo, voice, how)


def whole(demo: Demo, voice: Tensor) -> AvatarAudio:
    return demo.heard(voice)


def at_fixed_times(voice: AvatarAudio) -> AvatarAudio:
    """Features of a whole voice, read where those of a bounded one are."""
    return replace(voice, heard=(HeardSound(voice.waveform, RATE, ""),))


@dataclass(frozen=True)
class Error:
    """Root mean square of a difference, of all frames and of the worst one, in units of how much the thing moves."""

    of_all: float
    worst: float

    @classmethod
    def of(cls, one: np.ndarray, other: np.ndarray) -> "Error":
        """Two arrays [values, frames]."""
        moves = np.sqrt(np.square(other - other.mean(axis=1, keepdims=True)).sum(axis=0).mean())
        errors = np.sqrt(np.square(one - other).sum(axis=0)) / moves
        return cls(float(np.sqrt(np.square(errors).mean())), float(errors.max()))

    @classmethod
    def mean(cls, errors: list["Error"]) -> "Error":
        return cls(float(np.mean([e.of_all for e in errors])), max(e.worst for e in errors))

    def __str__(self) -> str:
        return f"{100 * self.of_all:.0f} % ({100 * self.worst:.0f} %)"


@dataclass(frozen=True)
class Features:
    """What the model reads of held-out voices: the mix of the encoder's layers at 25 frames a second."""

    demo: Demo
    voices: list[Tensor]
    mixer: object

    def read(self, voice: AvatarAudio) -> np.ndarray:
        frames = voice.video_frames(FPS) - 2
        return mix_layers(self.mixer, voice.aligned(0, frames, FPS))[0].numpy()

    def error(self, how: BoundedContext) -> Error:
        pairs = ((bounded(self.demo, voice, how), whole(self.demo, voice)) for voice in self.voices)
        return Error.mean([Error.of(self.read(one), self.read(at_fixed_times(other))) for one, other in pairs])

    def of_alignment(self) -> Error:
        """Of reading whole voices at fixed times alone."""
        voices = [whole(self.demo, voice) for voice in self.voices]
        return Error.mean([Error.of(self.read(at_fixed_times(voice)), self.read(voice)) for voice in voices])


@dataclass(frozen=True)
class Mouth:
    """Mouths of sampled videos against those of the whole voice."""

    error: Error
    sync: float
    lag: int
    pause: float

    def cells(self) -> str:
        return f"{self.error} | {self.sync:.3f} | {self.lag:+d} | {100 * self.pause:.0f} %"


class Videos:
    """The same person with the voice encoded in several ways. One of the scenes has a long pause."""

    def __init__(self, demo: Demo, seconds: float) -> None:
        self.demo = demo
        self.scenes = [quality.scene(300 + n, seconds) for n in range(2)]
        first, second = voice_of(np.random.default_rng([79, 0]), 10, held_out=True).split(5 * RATE, dim=1)
        noise = NOISE * torch.randn(1, PAUSE * RATE, generator=torch.Generator().manual_seed(1))
        self.scenes.append(replace(self.scenes[0], voice=torch.cat([first, noise, second], dim=1)))
        self.ready = [self._prepared(scene) for scene in self.scenes]
        self.base = [self._opening(scene, ready) for scene, ready in zip(self.scenes, self.ready, strict=True)]

    def _prepared(self, scene: Scene, seed: int = 7) -> Prepared:
        clips = -(-scene.voice.shape[1] * int(FPS) // RATE // quality.CLIP)
        return quality.prepared(self.demo, scene, clips, seed=seed)

    def _opening(self, scene: Scene, ready: Prepared) -> np.ndarray:
        frames = quality.generate(self.demo, ready)[: scene.voice.shape[1] * int(FPS) // RATE]
        return measures.mouth_opening(frames, draw(scene.person, Pose()))

    def measure(self, encode: "Encode | None" = None, seed: int = 7) -> Mouth:
        """With voices that `encode` makes of the scenes' voices; None: encoded as wholes."""
        openings = []
        for scene, ready in zip(self.scenes, self.ready, strict=True):
            if encode is not None:
                heard = AlignedAudio(encode(scene.voice), FPS)
                ready = replace(ready, conditions=replace(ready.conditions, audio=heard))
            if seed != 7:
                ready = self._prepared(scene, seed)
            openings.append(self._opening(scene, ready))
        errors = [Error.of(one[None], other[None]) for one, other in zip(openings, self.base, strict=True)]
        return Mouth(Error.mean(errors[:2]), *self._sync(openings), pause=self._in_pause(openings[2]))

    def _sync(self, openings: list[np.ndarray]) -> tuple[float, int]:
        energies = [
            measures.frame_energy(scene.voice[0].numpy(), RATE, float(FPS), len(opening))
            for scene, opening in zip(self.scenes, openings, strict=True)
        ]
        pairs = list(zip(openings[:2], energies[:2], strict=True))
        lags = [measures.best_lag(opening, energy) for opening, energy in pairs]
        return float(np.mean([measures.correlation(*pair) for pair in pairs])), max(lags, key=abs)

    def _in_pause(self, opening: np.ndarray) -> float:
        """Mean opening in the pause, in units of that in the speech before it."""
        fps = int(FPS)
        return float(np.mean(opening[6 * fps : (4 + PAUSE) * fps]) / np.mean(opening[: 5 * fps]))


Encode = Callable[[Tensor], AvatarAudio]


def table(features: Features, videos: Videos) -> tuple[list[str], dict[str, list[float]]]:
    """The report's lines, and the curves of its figure."""
    step, back, ahead = CHOSEN
    curves: dict[str, list[float]] = {"ahead": [], "back": [], "ahead mouth": [], "back mouth": []}
    lines = ["## Features", "", "| look-ahead | " + " | ".join(f"look-back {b} s" for b in BACK) + " |"]
    lines.append("| --- |" + " --- |" * len(BACK))
    for one in AHEAD:
        cells = [features.error(context(step, b, one)) for b in BACK]
        curves["ahead"].append(cells[BACK.index(int(back))].of_all)
        if one == ahead:
            curves["back"] += [cell.of_all for cell in cells]
        lines.append(f"| {one} s | " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
    lines += ["", "| seconds kept of a window | error | encoded seconds for each second |", "| --- | --- | --- |"]
    for one in STEPS:
        lines.append(f"| {one} | {features.error(context(one, back, ahead))} | {(one + back + ahead) / one:.0f} |")
        print(lines[-1], flush=True)
    lines += ["", f"Reading at fixed times instead of stretched ones: {features.of_alignment()}."]
    lines += ["", "## Mouth", "", "| voice | error of the mouth | lip sync | lag | mouth in the pause |"]
    lines.append("| --- | --- | --- | --- | --- |")
    rows: list[tuple[str, Mouth]] = []

    def add(name: str, mouth: Mouth) -> Mouth:
        rows.append((name, mouth))
        lines.append(f"| {name} | {mouth.cells()} |")
        print(lines[-1], flush=True)
        return mouth

    add("whole", videos.measure())
    add("whole, another seed", videos.measure(seed=8))
    add("whole, at fixed times", videos.measure(lambda voice: at_fixed_times(whole(videos.demo, voice))))
    for one in AHEAD:
        how = context(step, back, one)
        mouth = add(f"look-back {back:g} s, look-ahead {one} s", videos.measure(in_windows(videos.demo, how)))
        curves["ahead mouth"].append(mouth.error.of_all)
    for one in BACK:
        how = context(step, one, ahead)
        mouth = add(f"look-back {one} s, look-ahead {ahead:g} s", videos.measure(in_windows(videos.demo, how)))
        curves["back mouth"].append(mouth.error.of_all)
    return lines, curves


def panel(title: str, seconds: tuple[float, ...], curves: dict[str, list[float]]) -> np.ndarray:
    """Errors against seconds (logarithmic), uint8 [300, 480, 3]."""
    image = np.full((300, 480, 3), 255, np.uint8)
    left, right, top, bottom = 60, 460, 40, 260
    most = 1.1 * max(max(values) for values in curves.values())
    x = left + (np.log(seconds) - np.log(seconds[0])) / (np.log(seconds[-1]) - np.log(seconds[0])) * (right - left)
    cv2.rectangle(image, (left, top), (right, bottom), (200, 200, 200), 1)

    def write(text: str, at: tuple[int, int], colour: tuple[int, int, int] = (0, 0, 0)) -> None:
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)

    write(title, (left, 25))
    write(f"{100 * most:.0f} %", (8, top + 8))
    write("0 %", (20, bottom))
    for place, second in zip(x, seconds, strict=True):
        write(f"{second:g}", (int(place) - 8, bottom + 18))
    for (name, values), colour in zip(curves.items(), ((160, 60, 20), (30, 90, 220)), strict=False):
        y = bottom - np.asarray(values) / most * (bottom - top)
        cv2.polylines(image, [np.stack([x, y], axis=1).round().astype(np.int32)], False, colour, 2, cv2.LINE_AA)
        write(name, (right - 90, top + 18 + 18 * (colour[0] < 100)), colour)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voices", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    demo = Demo.load(ROOT / "demo" / "liveavatar-demo")
    voices = [voice_of(np.random.default_rng([78, n]), options.seconds, held_out=True) for n in range(options.voices)]
    mixer = load_transformer(demo.bundle.model, dtype=torch.float32).casual_audio_encoder
    lines, curves = table(Features(demo, voices, mixer), Videos(demo, options.seconds / 2))
    step, back, ahead = CHOSEN
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bounded_voice.md").write_text(
        "\n".join(
            [
                "# A voice with bounded context against the whole voice",
                "",
                f"By `python -m benchmarks.bounded_voice`: the demo model and its audio encoder, {options.voices} "
                f"held-out voices of {options.seconds:g} s of espeak-ng. Errors are root mean squares in units of how "
                "much features or mouth move (of the worst frame in brackets).",
                f"Chosen: {step:g} s kept of a window, look-back {back:g} s, look-ahead {ahead:g} s.",
                "",
                *lines,
                "",
                f"The pause lasts {PAUSE} s, with noise of {20 * np.log10(NOISE):.0f} dB; the mouth in it is in units "
                "of that in the speech before. Another seed shows how much of a mouth the voice does not decide.",
                "",
                "![Errors against look-ahead and look-back](bounded_voice.png)",
                "",
            ]
        ),
        encoding="utf-8",
    )
    pictures = [
        panel(
            f"look-ahead, s (look-back {back:g} s)",
            AHEAD,
            {"features": curves["ahead"], "mouth": curves["ahead mouth"]},
        ),
        panel(
            f"look-back, s (look-ahead {ahead:g} s)", BACK, {"features": curves["back"], "mouth": curves["back mouth"]}
        ),
    ]
    cv2.imwrite(str(RESULTS / "bounded_voice.png"), np.hstack(pictures))


if __name__ == "__main__":
    main()
