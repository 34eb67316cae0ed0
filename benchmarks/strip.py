"""Draws portraits and frames of their videos with the voice's waveform under them: `python -m benchmarks.strip`.

The first row is the picture, voice and prompt of the example workflow, at 25 frames a second. People, voices and
prompts are none that the demo model was trained on. `--side 128`: of the demo of 128x128, where it is there.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import ROOT
from benchmarks.quality import FPS, RATE, Demo
from benchmarks.shown import HELD_OUT, Shown, example
from demo.bundles import BY_SIDE, SMALL

SIDE = 128
"""Pixels of a frame in the strip."""
WAVE_HEIGHT = 64
WAVE_COLOUR, PAPER = (60, 90, 170), 255


def strip(shown: Shown, window: slice) -> np.ndarray:
    """The picture, then frames in a row, uint8 RGB, their sound below: each frame over its own time."""
    row = np.hstack([_resized(frame) for frame in shown.frames[window]])
    sound = shown.voice[0, int(window.start / FPS * RATE) : int(window.stop / FPS * RATE)].numpy()
    wave = np.full((WAVE_HEIGHT, row.shape[1], 3), PAPER, np.uint8)
    columns = np.array_split(sound, row.shape[1])
    half, peak = WAVE_HEIGHT // 2, max(float(np.abs(sound).max()), 1e-6)
    for x, column in enumerate(columns):
        reach = int(np.abs(column).max() / peak * (half - 2)) if len(column) else 0
        wave[half - reach : half + reach + 1, x] = WAVE_COLOUR
    picture = _resized(shown.picture)
    left = np.full((row.shape[0] + WAVE_HEIGHT, picture.shape[1] + 8, 3), PAPER, np.uint8)
    left[: picture.shape[0], : picture.shape[1]] = picture
    return np.hstack([left, np.vstack([row, wave])])


def _resized(frame: np.ndarray) -> np.ndarray:
    how = cv2.INTER_CUBIC if len(frame) < SIDE else cv2.INTER_AREA
    return cv2.resize(frame, (SIDE, SIDE), interpolation=how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, choices=list(BY_SIDE), default=SMALL.side, help="of the demo's videos")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "strip.png")
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--first", type=int, default=24, help="first frame shown")
    parser.add_argument("--frames", type=int, default=14)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bundle = BY_SIDE[arguments.side]
    demo, window = Demo.load(bundle.folder), slice(arguments.first, arguments.first + arguments.frames)
    rows = []
    for number in range(arguments.people):
        shown = HELD_OUT[bundle](demo, number) if number else example(bundle, clips=2)
        rows.append(strip(shown, window))
        print(f"{number}: {shown.prompt}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(
        str(arguments.output), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )
    print(arguments.output)


if __name__ == "__main__":
    main()
