"""What was measured as a table, as JSON and as a picture."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch

from .setup import Row

HEAD = (
    "# Speed beside the peers",
    "",
    "By `python -m benchmarks.speed --comfyui DIR --original DIR`. Both ways run in turn in one process, and what is "
    "compared is their processor time (on a card: seconds): the ratio is the median over pairs of runs, below 1 the "
    "pack is faster. ComfyUI's peer of an evaluation is its own forward pass over one block with picture and motion, "
    "with the same weights; a layer's peer is the original program's.",
)
BAR, LEFT, WIDTH = 34, 560, 1100
"""Pixels: height of a bar's row, where bars begin, width of the picture."""
RATIO_AT = 1.25
"""The largest ratio that has room; a longer bar is cut."""


def machine(device: torch.device, threads: int) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{name}, {threads} thread{'s' * (threads != 1)}, torch {torch.__version__}, {date.today().isoformat()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def table(rows: Sequence[Row], where: str) -> str:
    lines = [*HEAD, "", where + ".", "", "| Part | What | Peer | |", "| --- | --- | --- | --- |"]
    for row in rows:
        told = f"not measured: {row.why_not}" if row.why_not else values_of(row)
        lines.append(f"| {row.part} | {row.what or '-'} | {row.peer or '-'} | {told} |")
    return "\n".join(lines) + "\n"


def values_of(row: Row) -> str:
    return ", ".join(
        f"{name} **{value:.2f}**" if name == "ratio" else f"{name} {value:.4g}" for name, value in row.values.items()
    )


def write(rows: Sequence[Row], where: str, folder: Path, name: str = "speed") -> None:
    """NAME.md, NAME.json and NAME.png in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(table(rows, where), encoding="utf-8")
    found = {"machine": where, "rows": [asdict(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    cv2.imwrite(str(folder / f"{name}.png"), picture(rows))


def picture(rows: Sequence[Row]) -> np.ndarray:
    """A bar for each ratio with its spread, and a line at 1: uint8 [height, width, 3]."""
    shown = [row for row in rows if "ratio" in row.values]
    image = np.full(((len(shown) + 2) * BAR, WIDTH, 3), 255, np.uint8)
    scale = (WIDTH - LEFT - 70) / RATIO_AT

    def text(words: str, x: int, y: int) -> None:
        cv2.putText(image, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)

    text("time or memory of the pack, relative to the peer's (1 = equal, shorter is better)", 10, 22)
    for number, row in enumerate(shown, start=1):
        top, ratio = number * BAR, row.values["ratio"]
        end = LEFT + round(min(ratio, RATIO_AT) * scale)
        cv2.rectangle(image, (LEFT, top + 6), (end, top + BAR - 6), (170, 120, 60), -1)
        low, high = (LEFT + round(min(row.values.get(k, ratio), RATIO_AT) * scale) for k in ("lowest", "highest"))
        cv2.line(image, (low, top + BAR // 2), (high, top + BAR // 2), (0, 0, 0), 1, cv2.LINE_AA)
        text(f"{row.part}: {row.what}"[:68], 10, top + BAR // 2 + 5)
        text(f"{ratio:.2f}", max(end, high) + 6, top + BAR // 2 + 5)
    one = LEFT + round(scale)
    cv2.line(image, (one, BAR), (one, (len(shown) + 1) * BAR), (60, 60, 200), 1, cv2.LINE_AA)
    return image
