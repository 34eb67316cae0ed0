"""Draws the pictures of templates in the template browser: `python scripts/draw_thumbnails.py` writes workflows/*.jpg.

The demo's templates show frames of their videos and are not drawn here.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
SIDE, BAND, QUALITY = 384, 84, 88
LABELS = {
    "avatar_14b": "14B model",
    "avatar_14b_long": "14B, any length",
    "avatar_14b_segments": "14B in segments",
    "latents_and_spools": "Latents, spools",
}


def draw(label: str) -> Image.Image:
    """The demo portrait over a band with the label."""
    portrait = Image.open(ROOT / "demo" / "portrait.png").convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (SIDE, SIDE), "#16222b")
    picture.paste(portrait.crop((BAND // 2, 0, SIDE - BAND // 2, SIDE - BAND)), (BAND // 2, 0))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(38)
    left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
    place = (SIDE - right - left) / 2, SIDE - BAND + (BAND - bottom - top) / 2
    pen.text(place, label, fill="#f2c14e", font=font)
    return picture


def main() -> None:
    for name, label in LABELS.items():
        draw(label).save(ROOT / "workflows" / f"{name}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
