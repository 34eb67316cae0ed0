"""Draws the pictures of templates in the template browser: `python scripts/draw_thumbnails.py` writes workflows/*.jpg.

The demo's templates show frames of their videos and are not drawn here.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
SIDE, BAND, QUALITY, EDGE = 384, 84, 88, 36
LABELS = {
    "avatar_14b": "14B model",
    "avatar_14b_long": "14B, any length",
    "avatar_14b_segments": "14B in segments",
    "latents_and_spools": "Latents, spools",
    "direct_the_talk": "Direct the talk",
    "finish_the_video": "Finish the video",
    "live_talk": "Live: you speak",
    "check_my_hardware": "Check hardware",
}
TWO, TWO_LABEL = "two_speakers", "Two speakers"
CHECK, CHECK_LABEL = "check_my_plan", "Does it fit?"
COLOURS = ("#3b6fb5", "#e08a1e", "#4a9d8e")
BARS = ((0.35, 0.4, 0.1), (0.25, 0.5, 0.05), (0.4, 0.2, 0.2))
"""Parts of the bars in the picture of the plan's check, and their colours."""


def draw_two(label: str) -> Image.Image:
    """All of the demo's two people over a band with the label."""
    people = Image.open(ROOT / "demo" / "two_people.png").convert("RGB")
    height = round(people.height * SIDE / people.width)
    picture = Image.new("RGB", (SIDE, SIDE), "#16222b")
    picture.paste(people.resize((SIDE, height), Image.Resampling.LANCZOS), (0, (SIDE - BAND - height) // 2))
    return labelled(picture, label)


def draw(label: str) -> Image.Image:
    """The demo portrait over a band with the label."""
    portrait = Image.open(ROOT / "demo" / "portrait.png").convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (SIDE, SIDE), "#16222b")
    picture.paste(portrait.crop((BAND // 2, 0, SIDE - BAND // 2, SIDE - BAND)), (BAND // 2, 0))
    return labelled(picture, label)


def draw_bars(label: str) -> Image.Image:
    """Stacked bars with their limit over a band with the label."""
    picture = Image.new("RGB", (SIDE, SIDE), "#16222b")
    pen = ImageDraw.Draw(picture)
    width, height = SIDE - 2 * EDGE, 56
    for row, parts in enumerate(BARS):
        top, left = EDGE + row * (height + 32), float(EDGE)
        pen.rectangle((EDGE, top, EDGE + width, top + height), fill="#2b3b47")
        for part, colour in zip(parts, COLOURS, strict=False):
            pen.rectangle((left, top, left + part * width, top + height), fill=colour)
            left += part * width
        limit = EDGE + 0.92 * width
        pen.rectangle((limit - 2, top - 8, limit + 2, top + height + 8), fill="#ffffff")
    return labelled(picture, label)


def labelled(picture: Image.Image, label: str) -> Image.Image:
    """With the label in the band at the bottom."""
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(38)
    left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
    place = (SIDE - right - left) / 2, SIDE - BAND + (BAND - bottom - top) / 2
    pen.text(place, label, fill="#f2c14e", font=font)
    return picture


def main() -> None:
    for name, label in LABELS.items():
        draw(label).save(ROOT / "workflows" / f"{name}.jpg", quality=QUALITY)
    draw_two(TWO_LABEL).save(ROOT / "workflows" / f"{TWO}.jpg", quality=QUALITY)
    draw_bars(CHECK_LABEL).save(ROOT / "workflows" / f"{CHECK}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
