"""`python scripts/draw_banner.py` draws the pack's banner in the registry, assets/banner.png, from the demo.

The demo's picture, frames of the demo model's video (docs/images/strip.png) and the demo's voice.
"""

import wave
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
BANNER = ROOT / "assets" / "banner.png"
WIDTH, HEIGHT = 1260, 540
"""21:9, as the registry asks."""
MARGIN, GAP, CORNER = 48, 20, 20
BACKGROUND, TITLE, TEXT, SOUND = "#16203a", "#ffffff", "#d6e2ec", "#ffa85c"
LINES = ("One picture, one voice, a prompt:", "a talking video of any length.")
STRIP_SIDE, STRIP_START = 128, 136
"""Of the strip's pictures, and where its frames begin."""
FRAMES = (0, 2, 3, 5, 7, 9)
"""Of the strip: the mouth opens, closes and opens again."""
BAR, BAR_STEP, SWING = 4, 9, 22


def rounded(picture: Image.Image, side: int) -> tuple[Image.Image, Image.Image]:
    """A picture of that side, and the mask that rounds its corners."""
    mask = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * side - 1, 4 * side - 1), 4 * CORNER, fill=255)
    return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), mask.resize((side, side))


def loudness(count: int) -> np.ndarray:
    """Of the demo's voice in so many parts, 0..1."""
    with wave.open(str(ROOT / "demo" / "voice.wav")) as voice:
        samples = np.frombuffer(voice.readframes(voice.getnframes()), np.int16).astype(np.float64)
    peaks = np.array([np.abs(part).max() for part in np.array_split(samples, count)])
    return peaks / peaks.max()


def draw() -> Image.Image:
    banner = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    pen = ImageDraw.Draw(banner)
    frame_side = (WIDTH - 2 * MARGIN - GAP * (len(FRAMES) - 1)) // len(FRAMES)
    portrait_side = HEIGHT - 3 * MARGIN - frame_side - GAP
    picture, mask = rounded(Image.open(ROOT / "demo" / "portrait.png"), portrait_side)
    banner.paste(picture, (MARGIN, MARGIN), mask)
    left = MARGIN + portrait_side + 2 * GAP
    pen.text((left, MARGIN - 8), "LiveAvatar", fill=TITLE, font=ImageFont.load_default(76))
    for number, line in enumerate(LINES):
        pen.text((left, MARGIN + 88 + 42 * number), line, fill=TEXT, font=ImageFont.load_default(31))
    frames_top = HEIGHT - MARGIN - frame_side
    _draw_voice(pen, MARGIN + portrait_side + (frames_top - MARGIN - portrait_side) // 2)
    strip = Image.open(ROOT / "docs" / "images" / "strip.png")
    for place, number in enumerate(FRAMES):
        start = STRIP_START + STRIP_SIDE * number
        frame, mask = rounded(strip.crop((start, 0, start + STRIP_SIDE, STRIP_SIDE)), frame_side)
        banner.paste(frame, (MARGIN + place * (frame_side + GAP), frames_top), mask)
    return banner


def _draw_voice(pen: ImageDraw.ImageDraw, middle: int) -> None:
    """Bars over the whole width, around `middle`."""
    count = (WIDTH - 2 * MARGIN) // BAR_STEP
    for number, loud in enumerate(loudness(count)):
        x, half = MARGIN + BAR_STEP * number, BAR / 2 + loud * SWING
        pen.rounded_rectangle((x, middle - half, x + BAR, middle + half), BAR // 2, fill=SOUND)


if __name__ == "__main__":
    draw().save(BANNER, optimize=True)
