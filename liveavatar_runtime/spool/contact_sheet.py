"""Contact sheet: some finished clips of every video and branch as small pictures, at a glance and without a VAE."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..media.lettering import length_of, write
from .branches import BranchInfo
from .first_frames import first_frame, read_colours
from .store import SpoolStore
from .times import when

WIDTH, MARGIN, GAP = 1200, 24, 8
MOST_ROWS = 24
"""Of all videos together, so that the picture has an end."""
PICTURES = 8
"""Of a row."""
SIDE = (WIDTH - 2 * MARGIN - (PICTURES - 1) * GAP) // PICTURES
LABEL, NUMBER = 22, 16
PAPER, INK, QUIET, EMPTY = "#ffffff", "#1c2530", "#5b6875", "#e6eaee"


@dataclass(frozen=True)
class Row:
    """Clips of a branch, from 0, as pictures; None where a file is damaged."""

    label: str
    pictures: tuple[tuple[int, Image.Image | None], ...]

    @property
    def height(self) -> int:
        """Pixels."""
        return (
            LABEL + max((picture.height for _, picture in self.pictures if picture), default=SIDE // 2) + NUMBER + GAP
        )


def draw_sheet(store: SpoolStore, colours: Tensor) -> Image.Image | None:
    """RGB, at most `WIDTH` pixels wide, of the videos that were used last; None where no clips are kept.

    colours: factors and bias [17, 3] for videos that have none of their own.
    """
    rows: list[Row] = []
    left = 0
    for folder, label, branch in _branches(store):
        if len(rows) == MOST_ROWS:
            left += 1
            continue
        own = read_colours(folder)
        rows.append(Row(label, tuple(_pictures(branch, colours if own is None else own))))
    return _drawn(rows, f"and {left} more" if left else "") if rows else None


def _branches(store: SpoolStore) -> Iterator[tuple[Path, str, BranchInfo]]:
    now = time.time()
    for info in store.spools():
        for branch in store.branches(info.key):
            if branch.clips:
                name = f"{info.short_key}{f'/{branch.name}' if branch.name else ''}"
                first, last = min(branch.clips) + 1, max(branch.clips) + 1
                seed = (info.about or {}).get("seed", "?")
                label = f"{name}   clips {first} to {last}   seed {seed}   used {when(branch.used, now)}"
                yield store.root / info.key, label, branch


def _pictures(branch: BranchInfo, colours: Tensor) -> Iterator[tuple[int, Image.Image | None]]:
    """Evenly over the branch, its first and last clip among them."""
    numbers = sorted(branch.clips)
    count = min(PICTURES, len(numbers))
    for place in range(count):
        clip = numbers[place * (len(numbers) - 1) // max(1, count - 1)]
        latents = first_frame(branch.clips[clip])
        yield clip, None if latents is None else picture_of(latents, colours)


def picture_of(latents: Tensor, colours: Tensor) -> Image.Image:
    """Latents [16, h, w] in the model's space as RGB, the longer side `SIDE` pixels."""
    rgb = latents.movedim(0, -1) @ colours[:-1] + colours[-1]
    pixels = ((rgb.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
    picture = Image.fromarray(pixels, "RGB")
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _drawn(rows: Sequence[Row], last: str) -> Image.Image:
    height = 2 * MARGIN + sum(row.height + GAP for row in rows) + (LABEL if last else 0)
    # No wider than needed: a node shows it at its own width.
    most = max(len(row.pictures) for row in rows) * (SIDE + GAP) - GAP
    labels = max(length_of(row.label, 15) for row in rows)
    sheet = Image.new("RGB", (min(WIDTH, round(max(most, labels)) + 2 * MARGIN), height), PAPER)
    top = MARGIN
    for row in rows:
        write(sheet, (MARGIN, top), row.label, 15, INK)
        for place, (clip, picture) in enumerate(row.pictures):
            left = MARGIN + place * (SIDE + GAP)
            shown = picture or Image.new("RGB", (SIDE, SIDE // 2), EMPTY)
            sheet.paste(shown, (left, top + LABEL))
            text = str(clip + 1) if picture else f"{clip + 1}: damaged"
            x = left + (shown.width - length_of(text, 12)) / 2
            write(sheet, (x, top + LABEL + shown.height + 2), text, 12, QUIET)
        top += row.height + GAP
    if last:
        write(sheet, (MARGIN, top), last, 15, QUIET)
    return sheet
