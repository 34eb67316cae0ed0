"""Measures how soon the demo's picture follows another prompt: `python -m benchmarks.following`.

A prompt names the colour of the wall; in the middle of the video another one begins, with another colour. Counted is
from which block on the wall has the new colour, for every sink policy, with the sink made anew with the new prompt
(what the pack does) and with the one that was made with the old prompt. People, voices and prompts are none that the
model was trained on. Writes results/following.md and the picture docs/images/following.png.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks import ROOT, measures
from benchmarks.quality import BLOCK, CLIP, CPU, FPS, Demo, scene
from benchmarks.speed.report import machine
from demo.training.portraits import WALLS, Pose, draw
from demo.training.text import HELD_OUT_COLOURED
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.sampling.block_run import BlockRun
from liveavatar_runtime.sampling.evaluator import Evaluator, InForce, PlacedModel
from liveavatar_runtime.sampling.plan import SINK_POLICIES, ClipPlan, SinkPolicy
from liveavatar_runtime.sampling.prepare import Inputs, Prepared, prepare
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.sampling.script import Change, Script
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

RESULT, PICTURE = ROOT / "benchmarks" / "results" / "following.md", ROOT / "docs" / "images" / "following.png"
CLIPS, CHANGE = 7, 8
"""Of the video, and the block that the new prompt begins with: its third clip's first."""
REANCHOR = 2
"""Clips after which `reanchor` renews its reference; the node's default, 10, would be `adaptive` here."""
BEFORE, CELL, LEFT, TOP, ROW = 2, 30, 250, 70, 34
"""Blocks shown before the change; pixels of the picture."""
OLD, NEW, BACKGROUND, INK = (59, 66, 82), (242, 193, 78), "#16222b", "#ffffff"


class OldSink(Evaluator):
    """With the sink of the prompt before, also where another one begins."""

    def fill_sink(self, block: int, tokens: Tensor, text: Tensor | None = None) -> Tensor:
        if text is None:
            return super().fill_sink(block, tokens)
        self.video = replace(self.video, text=self.model.text_context(text, self.layers))
        self._in_force[block] = InForce(self.sink_of(block), self.video.text)
        return tokens


@dataclass(frozen=True)
class Way:
    """A sink policy, and whether the sink is made anew with a new prompt."""

    policy: SinkPolicy
    anew: bool

    def __str__(self) -> str:
        return f"{self.policy}, sink {'made anew' if self.anew else 'of the old prompt'}"


WAYS = tuple(Way(policy, anew) for policy in SINK_POLICIES for anew in (True, False))


def prepared(demo: Demo, number: int, policy: SinkPolicy) -> tuple[Prepared, str]:
    """Held-out scene `number` with two colours of its wall, and the second one."""
    what = scene(number, CLIPS * CLIP / float(FPS), coloured=1.0)
    rng = np.random.default_rng([78, number])
    word = str(rng.choice([colour for colour in WALLS if colour != what.word]))
    second = str(rng.choice(HELD_OUT_COLOURED)).format(word)
    script = Script((Change(block=CHANGE, text=True),))
    plan = ClipPlan(
        num_clip=CLIPS,
        fps=FPS,
        width=64,
        height=64,
        seed=number,
        sink_policy=policy,
        reanchor_clips=REANCHOR,
        script=script,
    )
    given = Inputs(
        picture=torch.from_numpy(draw(what.person, Pose(), 512)).float() / 255,
        text=demo.text.encode(what.prompt),
        audio=demo.heard(what.voice),
        texts={CHANGE: demo.text.encode(second)},
    )
    config = load_transformer(demo.bundle.model).config
    return prepare(plan, config, given, demo.placed_vae), word


def follows(demo: Demo, model: CausalWanS2V, number: int, way: Way) -> list[bool]:
    """Of each block, whether the wall has the second prompt's colour."""
    ready, word = prepared(demo, number, way.policy)
    request = SamplingRequest(ready.conditions, ready.plan)
    kind = Evaluator if way.anew else OldSink
    decoder = OnlineDecoder(demo.placed_vae, ready.priming, "hold")
    found = []
    for block in BlockRun(lambda: kind(PlacedModel(model, CPU), request, torch.float32), request):
        frames = decoder.decode(block.latents).permute(1, 2, 3, 0)
        # The first frames of a block still fade from the one before.
        pixels = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()[-BLOCK // 2 :]
        found.append(measures.wall_word(pixels) == word)
    return found


def blocks_to_follow(found: list[bool]) -> int | None:
    """Blocks after the change until the wall keeps the new colour; None: it does not have it at the end."""
    if not found[-1]:
        return None
    after = found[CHANGE:]
    return len(after) - next((n for n, new in enumerate(reversed(after)) if not new), len(after))


def row(way: Way, videos: list[list[bool]]) -> str:
    counts = [blocks_to_follow(found) for found in videos]
    follow = sorted(count for count in counts if count is not None)
    median = f"{np.median(follow):g}" if follow else "-"
    spread = f"{follow[0]} to {follow[-1]}" if follow else "-"
    return f"| {way.policy} | {'yes' if way.anew else 'no'} | {len(follow)} of {len(counts)} | {median} | {spread} |"


def table(results: dict[Way, list[list[bool]]]) -> str:
    after = CLIPS * CLIP // BLOCK - CHANGE
    return "\n".join(
        [
            "# How soon the picture follows another prompt",
            "",
            f"By `python -m benchmarks.following`, {machine(CPU, torch.get_num_threads())}. The demo model, 25 frames "
            f"a second, {len(next(iter(results.values())))} people with prompts of its held-out kinds. The prompt that "
            f"names another colour of the wall begins at block {CHANGE}; {after} blocks come after. `reanchor` renews "
            f"its reference every {REANCHOR} clips. The pack makes the sink anew where a prompt begins.",
            "",
            "| sink_policy | sink made anew | videos that follow | blocks until then (median) | range |",
            "| --- | --- | --- | --- | --- |",
            *(row(way, videos) for way, videos in results.items()),
            "",
            "![Share of videos whose wall has the new colour, by block](../../docs/images/following.png)",
            "",
        ]
    )


def drawn(results: dict[Way, list[list[bool]]]) -> Image.Image:
    """A row for each way and a column for each block: the share of videos whose wall has the new colour."""
    blocks = CLIPS * CLIP // BLOCK - CHANGE + BEFORE
    image = Image.new("RGB", (LEFT + blocks * CELL + 20, TOP + len(results) * ROW + 20), BACKGROUND)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    pen.text((16, 12), "Share of videos whose wall has the new prompt's colour, by block", fill=INK, font=font)
    for column in range(blocks):
        pen.text(
            (LEFT + column * CELL + 6, TOP - 24), f"{column - BEFORE:+d}", fill=INK, font=ImageFont.load_default(12)
        )
    for number, (way, videos) in enumerate(results.items()):
        top = TOP + number * ROW
        pen.text((16, top + 6), str(way), fill=INK, font=font)
        shares = np.mean(np.asarray(videos, dtype=float), axis=0)[CHANGE - BEFORE :]
        for column, share in enumerate(shares):
            colour = tuple(round(old + share * (new - old)) for old, new in zip(OLD, NEW, strict=True))
            left = LEFT + column * CELL
            pen.rectangle((left, top, left + CELL - 3, top + ROW - 6), fill=colour)
            ink = BACKGROUND if share > 0.5 else INK
            pen.text((left + 3, top + 7), f"{100 * share:.0f}", fill=ink, font=ImageFont.load_default(11))
    line = LEFT + BEFORE * CELL - 2
    pen.line((line, TOP - 8, line, TOP + len(results) * ROW), fill=INK, width=2)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "demo" / "liveavatar-demo")
    parser.add_argument("--videos", type=int, default=8, help="people for each way")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo = Demo.load(arguments.bundle)
    model = load_transformer(demo.bundle.model, dtype=torch.float32)
    results = {way: [follows(demo, model, 400 + n, way) for n in range(arguments.videos)] for way in WAYS}
    arguments.output.write_text(table(results), encoding="utf-8")
    drawn(results).save(arguments.picture, optimize=True)
    print(table(results))


if __name__ == "__main__":
    main()
