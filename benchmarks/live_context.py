"""What a live voice loses by how little it sees ahead, on the demo model and speech that it was not trained on.

    python -m benchmarks.live_context

Writes benchmarks/results/live_context.md: for look-ahead, step and look-back of the windows, how far the features and
the mouth depart from those of the whole voice, what encoding costs and how late it is; and whether the mouth stays shut
where nobody speaks, with the noise of a microphone. About 15 minutes on a free processor. Needs espeak-ng.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from benchmarks import ROOT, measures, quality
from benchmarks.bounded_voice import Error, bounded, whole
from benchmarks.quality import FPS, Demo
from demo.training.portraits import Pose, draw
from demo.training.voices import RATE, voice_of
from liveavatar_runtime.audio.bounded import BoundedContext
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.level import Memory
from liveavatar_runtime.audio.windows import samples_seen
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.dit.audio import mix_layers
from liveavatar_runtime.duration import FEATURE_RATE, FRAMES_PER_BLOCK, fixed_bucket_position
from liveavatar_runtime.live.voice import LIVE
from liveavatar_runtime.sampling.conditions import AlignedAudio

WHY = (
    "Why: the mouth gains nothing from more than 0.1 s of look-ahead and loses with less; the features come nearer "
    "fast up to 0.2 s, which another model may need. The mouth loses with less than 4 s of look-back. A window for "
    "each block costs a sixth of windows of 0.1 s, as nothing is encoded twice, sees more ahead on average, and "
    "ends with the block. Features are read at fixed times, not stretched to the voice's length as those of one "
    "pass: that alone is 28 % of error in the features and 17 % in the mouth (bounded_voice.md)."
)
RESULTS = ROOT / "benchmarks" / "results" / "live_context.md"
BLOCK = Fraction(FRAMES_PER_BLOCK) / FPS
STEPS = Fraction(1, 10), Fraction(1, 5), Fraction(1, 2), BLOCK
AHEAD = 0, 0.1, 0.2, 0.3, 0.5, 1.0
BACK = 1, 2, 4, 10
"""Seconds."""
NOISES = -100, -60, -55, -50, -45
"""Decibels of full scale."""
SHUT = 0.2
"""Of the opening in loud speech (its 90th percentile), up to which a mouth is shut."""
SETTLING = 15
"""Frames after the end of speech, and 6 before its beginning, in which the mouth may still be moving."""


def context(step: Fraction, back: float, ahead: float) -> BoundedContext:
    """Of seconds."""
    look_back, look_ahead = (round(seconds * FEATURE_RATE) for seconds in (back, ahead))
    return BoundedContext(step * FEATURE_RATE, look_back, look_ahead, Memory())


def named(step: Fraction) -> str:
    return "a block (0.48 s)" if step == BLOCK else f"{float(step):g} s"


class Measured:
    """Held-out voices and people: features and mouths of the whole voices, against which windows are measured."""

    def __init__(self, demo: Demo, voices: list[Tensor]) -> None:
        self.demo, self.voices = demo, voices
        self._mixer = load_transformer(demo.bundle.model, dtype=torch.float32).casual_audio_encoder
        scenes = [replace(quality.scene(300 + n, 1.0), voice=voice) for n, voice in enumerate(voices)]
        self._people = [scene.person for scene in scenes]
        self._ready = [quality.prepared(demo, scene, -(-self.frames // quality.CLIP)) for scene in scenes]
        self._whole = [whole(demo, voice) for voice in voices]
        self._mouths = [self.mouth(n, voice) for n, voice in enumerate(self._whole)]

    @property
    def frames(self) -> int:
        return self.voices[0].shape[1] * int(FPS) // RATE

    def read(self, voice: AvatarAudio) -> np.ndarray:
        return mix_layers(self._mixer, voice.aligned(0, self.frames - 2, FPS))[0].numpy()

    def mouth(self, number: int, voice: AvatarAudio) -> np.ndarray:
        ready = self._ready[number]
        ready = replace(ready, conditions=replace(ready.conditions, audio=AlignedAudio(voice, FPS)))
        frames = quality.generate(self.demo, ready)[: self.frames]
        return measures.mouth_opening(frames, draw(self._people[number], Pose()))

    def features_error(self, how: BoundedContext) -> str:
        pairs = zip(self.voices, self._whole, strict=True)
        errors = [Error.of(self.read(bounded(self.demo, voice, how)), self.read(one)) for voice, one in pairs]
        return str(Error.mean(errors))

    def mouth_error(self, how: BoundedContext) -> str:
        """Error, correlation with the mouth of the whole voice, and lip sync."""
        openings = [self.mouth(n, bounded(self.demo, voice, how)) for n, voice in enumerate(self.voices)]
        return self._told(openings)

    def _told(self, openings: list[np.ndarray]) -> str:
        pairs = list(zip(openings, self._mouths, strict=True))
        error = Error.mean([Error.of(one[None], other[None]) for one, other in pairs])
        alike = np.mean([measures.correlation(one, other) for one, other in pairs])
        energies = [measures.frame_energy(v[0].numpy(), RATE, float(FPS), self.frames) for v in self.voices]
        heard = list(zip(openings, energies, strict=True))
        sync = np.mean([measures.correlation(*pair) for pair in heard])
        lag = max((measures.best_lag(*pair) for pair in heard), key=abs)
        return f"{error} | {alike:.3f} | {sync:.3f} | {lag:+d}"

    def whole_row(self) -> str:
        return self._told(self._mouths)


def late(step: Fraction, ahead: float) -> float:
    """Seconds from a block's end until all sound is there that its windows see, on average over many blocks."""
    how, found = context(step, 1, ahead), list[float]()
    for block in range(500):
        end = (block + 1) * BLOCK
        last, share = fixed_bucket_position(round((end - 1 / FPS) * 30))
        window = how.window(how.number_of(last + (share > 0)), 2**40)
        found.append(max(0.0, samples_seen(window.stop) / RATE - float(end)))
    return float(np.mean(found))


def cost(demo: Demo, step: Fraction, back: float, ahead: float) -> float:
    """Processor seconds of encoding a second of voice."""
    samples = torch.randn(1, samples_seen(round((float(step) + back + ahead) * FEATURE_RATE)))
    demo.audio.encode_prepared(samples, RATE)
    tries = list[float]()
    for _ in range(4):
        begun = time.process_time()
        demo.audio.encode_prepared(samples, RATE)
        tries.append(time.process_time() - begun)
    return min(tries) / float(step)


def features_lines(found: Measured) -> Iterator[str]:
    yield from ("", "## Features", "", "Look-back 4 s:", "")
    yield "| step | " + " | ".join(f"look-ahead {ahead:g} s" for ahead in AHEAD) + " |"
    yield "| --- |" + " --- |" * len(AHEAD)
    for step in STEPS:
        yield f"| {named(step)} | " + " | ".join(found.features_error(context(step, 4, a)) for a in AHEAD) + " |"
    yield from ("", "Step a block:", "")
    yield "| look-back | " + " | ".join(f"look-ahead {ahead:g} s" for ahead in AHEAD) + " |"
    yield "| --- |" + " --- |" * len(AHEAD)
    for back in BACK:
        yield f"| {back} s | " + " | ".join(found.features_error(context(BLOCK, back, a)) for a in AHEAD) + " |"


def cost_lines(demo: Demo) -> Iterator[str]:
    yield from ("", "## What it costs, with look-ahead 0.2 s", "")
    yield "| step | features after a block's end, on average | " + " | ".join(f"look-back {b} s" for b in BACK) + " |"
    yield "| --- | --- |" + " --- |" * len(BACK)
    for step in STEPS:
        costs = " | ".join(f"{cost(demo, step, back, 0.2):.3f}" for back in BACK)
        yield f"| {named(step)} | {late(step, 0.2):.3f} s | {costs} |"
    yield from ("", "Encoding in processor seconds for a second of voice.")


def mouth_lines(found: Measured) -> Iterator[str]:
    yield from ("", "## Mouth", "")
    yield "| voice | error of the mouth | correlation with the whole voice's | lip sync | lag |"
    yield "| --- | --- | --- | --- | --- |"
    yield f"| whole | {found.whole_row()} |"
    rows = [(BLOCK, 4, ahead) for ahead in AHEAD] + [(BLOCK, back, 0.2) for back in BACK if back != 4]
    for step, back, ahead in [*rows, *((step, 4, 0.2) for step in STEPS[:3])]:
        name = f"step {named(step)}, look-back {back:g} s, look-ahead {ahead:g} s"
        yield f"| {name} | {found.mouth_error(context(step, back, ahead))} |"


def silence_lines(demo: Demo) -> Iterator[str]:
    """Noise, speech, noise: frames in which the mouth is shut."""
    yield from ("", "## Silence, with the chosen windows", "")
    yield "| noise | speech | shut before the first word | shut after it | mean opening before, after |"
    yield "| --- | --- | --- | --- | --- |"
    scene = quality.scene(300, 6.0)
    for decibels, gain in [*((noise, 1.0) for noise in NOISES), (-60, 0.25), (-50, 0.5)]:
        made = torch.Generator().manual_seed(3)
        noise = 10 ** (decibels / 20) * torch.randn(1, 22 * RATE, generator=made)
        noise[:, 6 * RATE : 12 * RATE] += gain * scene.voice
        ready = quality.prepared(demo, replace(scene, voice=noise), 12)
        heard = AlignedAudio(bounded(demo, noise, LIVE.at(FPS)), FPS)
        ready = replace(ready, conditions=replace(ready.conditions, audio=heard))
        opening = measures.mouth_opening(quality.generate(demo, ready), draw(scene.person, Pose()))
        begin, end = 6 * int(FPS), 12 * int(FPS)
        loud = np.quantile(opening[begin:end], 0.9)
        before, after = opening[: begin - 6] / loud, opening[end + SETTLING : 22 * int(FPS)] / loud
        level = 20 * np.log10(gain * float(scene.voice.std()))
        shut = " | ".join(f"{100 * (part <= SHUT).mean():.1f} %" for part in (before, after))
        yield f"| {decibels} dB | {level:.0f} dB | {shut} | {100 * before.mean():.0f} %, {100 * after.mean():.0f} % |"
    yield ""
    yield (
        f"Shut: no wider than {100 * SHUT:.0f} % of what it is in loud speech (its 90th percentile). "
        f"{SETTLING / float(FPS):g} s after speech are left out. Levels are root mean squares of full scale."
    )


def main() -> None:
    torch.set_num_threads(1)
    demo = Demo.load(ROOT / "demo" / "liveavatar-demo")
    voices = [voice_of(np.random.default_rng([78, n]), 14.4, held_out=True) for n in range(2)]
    found = Measured(demo, voices)
    lines = [
        "# Live voice: look-ahead, step and look-back",
        "",
        "By `python -m benchmarks.live_context`: the demo model and its audio encoder, 2 held-out voices of 14 s of "
        "espeak-ng at 25 frames a second, against the whole voice in one pass (Audio Encode). Errors are root mean "
        "squares in units of how much features or mouth move (of the worst frame in brackets).",
        f"Chosen: a window for each block, look-back {LIVE.look_back / FEATURE_RATE:g} s, look-ahead "
        f"{LIVE.look_ahead / FEATURE_RATE:g} s.",
        "",
        WHY,
    ]
    for part in (silence_lines(demo), cost_lines(demo), features_lines(found), mouth_lines(found)):
        for line in part:
            print(line, flush=True)
            lines.append(line)
    RESULTS.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
