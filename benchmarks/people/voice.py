"""Whether the mouth says what the voice says."""

from dataclasses import replace

import numpy as np

from benchmarks import measures
from benchmarks.quality import BLOCK, CLIP, LATENT, Demo, generate, row
from demo.people.pose import Pose
from demo.people.speech import RATE
from demo.people.visemes import VOWELS

from .mouths import Mouths, openings
from .scene import FPS, prepared, scene

GROUPS = ("i", "e", "a", "o", "u")


def lip_sync(demo: Demo) -> list[str]:
    """One minute in one stream, beside the perfect drawing of the same voice."""
    what = scene(0, 60.0)
    frames = generate(demo, prepared(demo, what, clips=32))[: int(60 * FPS)]
    perfect = what.drawn(len(frames))
    energy = measures.frame_energy(what.track.sound[0].numpy(), RATE, float(FPS), len(frames))
    found, ideal = openings(what.person, frames), openings(what.person, perfect)
    share = measures.correlation(found, energy) / measures.correlation(ideal, energy)
    same, lag = measures.correlation(found, ideal), measures.best_lag(found, ideal)
    late = measures.best_lag(found[-250:], ideal[-250:])
    most_late = max(abs(lag), abs(late))
    silent = energy < 0.02 * energy.max()
    shut = float(np.mean(found[silent] <= 0.13)) if silent.any() else 1.0
    seams = [measures.seam_ratio(frames, border, 1) for border in (BLOCK, CLIP, LATENT)]
    told = "{:.2f}, {:.2f}, {:.2f}".format(*seams)
    return [
        row("lip sync over 60 s, of what a perfect drawing reaches", f"{share:.3f}", ">= 0.9", share >= 0.9),
        row("mouth against the perfect drawing's (correlation)", f"{same:.3f}", ">= 0.8", same >= 0.8),
        row("best lag over 60 s, over the last 10 s (frames)", f"{lag:+d}, {late:+d}", "0 +- 1", most_late <= 1),
        row("shut in silence", f"{100 * shut:.1f} % of frames", ">= 99 %", shut >= 0.99),
        row("seams at blocks, clips, latents (x median frame)", told, "<= 1.3", max(seams) <= 1.3),
    ]  # fmt: skip


def vowels(demo: Demo, people: int) -> list[str]:
    """Which vowel a mouth shows, by the one that is said: a table, and the share that is right."""
    names = [str(group) for group in GROUPS]
    table = np.zeros((len(names), len(names)), int)
    for number in range(people):
        what = scene(300 + number, 8.0)
        frames = generate(demo, prepared(demo, what, clips=4, seed=number))
        poses = [
            Pose(opening=VOWELS[sign].opening * scale, spread=VOWELS[sign].spread)
            for sign in GROUPS
            for scale in (0.7, 1.0, 1.3)
        ]
        bank = Mouths.of(what.person, [replace(pose, opening=min(pose.opening, 1.0)) for pose in poses])
        for frame in range(len(frames)):
            said = what.track.vowels[min(int((frame + 0.5) * 50 / FPS), len(what.track.vowels) - 1)]
            if said:
                table[names.index(said), bank.nearest(frames[frame]) // 3] += 1
    right = float(np.mean([table[n, n] / max(table[n].sum(), 1) for n in range(len(names))]))
    lines = [row("vowel that the mouth shows (mean of five)", f"{100 * right:.0f} %", ">= 60 %", right >= 0.6), ""]
    lines += ["| said, shown | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for name, counts in zip(names, table, strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{100 * c / max(counts.sum(), 1):.0f} %" for c in counts) + " |")
    return lines
