"""Draws the moving sample of the README, docs/images/sample.gif: `python -m benchmarks.sample`.

The example workflow's picture, voice and prompt, and what the demo model makes of them, at 25 frames a second of which
every second one is shown.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks import ROOT
from benchmarks.quality import CLIP, FPS, RATE
from benchmarks.shown import Shown, example
from demo.bundles import BY_SIDE, SMALL

SAMPLE = ROOT / "docs" / "images" / "sample.gif"
CLIPS, EVERY = 3, 2
WIDTH, HEIGHT, MARGIN = 680, 288, 16
PICTURE, VIDEO = 144, 256
"""Sides of the portrait and of the video."""
BACKGROUND, TEXT, FAINT, SOUND, REST = "#16203a", "#ffffff", "#d6e2ec", "#ffa85c", "#5a6885"
BAR, BAR_STEP, SWING = 3, 6, 26
LINE = 24
"""Letters of the prompt in a line."""
COLOURS = 64


def wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= LINE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def background(what: Shown) -> Image.Image:
    """What does not move: the portrait and the prompt."""
    image = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    pen = ImageDraw.Draw(image)
    small = ImageFont.load_default(14)
    image.paste(
        Image.fromarray(what.picture).resize((PICTURE, PICTURE), Image.Resampling.LANCZOS), (MARGIN, MARGIN + 22)
    )
    pen.text((MARGIN, MARGIN - 2), "One picture", fill=FAINT, font=small)
    left = 2 * MARGIN + PICTURE
    pen.text((left, MARGIN - 2), "a prompt", fill=FAINT, font=small)
    for number, line in enumerate(wrapped(what.prompt)):
        pen.text((left, MARGIN + 22 + 20 * number), line, fill=TEXT, font=ImageFont.load_default(15))
    pen.text((MARGIN, HEIGHT - MARGIN - 2 * SWING + 20), "a voice", fill=FAINT, font=small)
    return image


def draw_voice(pen: ImageDraw.ImageDraw, peaks: np.ndarray, share: float) -> None:
    """Bars from under the portrait to the video; the part that was spoken is bright."""
    left, middle = MARGIN + 64, HEIGHT - MARGIN - SWING + 4
    for number, peak in enumerate(peaks):
        x, half = left + BAR_STEP * number, BAR / 2 + peak * (SWING - 6)
        colour = SOUND if number / len(peaks) <= share else REST
        pen.rounded_rectangle((x, middle - half, x + BAR, middle + half), BAR // 2, fill=colour)


def moving(what: Shown) -> list[Image.Image]:
    """Pictures of the sample: of the frames every second one, with the place in the voice."""
    still, frames = background(what), what.frames
    sound = what.voice[0, : int(len(frames) / FPS * RATE)].numpy()
    count = (WIDTH - MARGIN - VIDEO - 2 * MARGIN - 64) // BAR_STEP
    peaks = np.array([np.abs(part).max() for part in np.array_split(sound, count)])
    peaks = peaks / max(float(peaks.max()), 1e-6)
    pictures = []
    for number in range(0, len(frames), EVERY):
        picture = still.copy()
        draw_voice(ImageDraw.Draw(picture), peaks, number / len(frames))
        frame = Image.fromarray(frames[number]).resize((VIDEO, VIDEO), Image.Resampling.BICUBIC)
        picture.paste(frame, (WIDTH - MARGIN - VIDEO, (HEIGHT - VIDEO) // 2))
        pictures.append(picture)
    return pictures


def save(pictures: list[Image.Image], path: Path) -> None:
    """As a GIF with one palette, so that what stands still costs nothing."""
    strip = np.hstack([np.asarray(picture) for picture in pictures[:: max(1, len(pictures) // 8)]])
    palette = Image.fromarray(strip).quantize(COLOURS, Image.Quantize.MEDIANCUT)
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    duration = int(1000 * EVERY / FPS)
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0, optimize=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, choices=list(BY_SIDE), default=SMALL.side, help="of the demo's videos")
    parser.add_argument("--output", type=Path, default=SAMPLE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    what = example(BY_SIDE[arguments.side], CLIPS)
    assert len(what.frames) == CLIPS * CLIP
    save(moving(what), arguments.output)
    print(arguments.output, f"{arguments.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
