"""Draws the videos that everything is trained on, in several processes."""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .videos import draw_videos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=720)
    parser.add_argument("--tracks", type=int, default=240, help="voices, each used by several videos")
    parser.add_argument("--parts", type=int, default=2, help="processes, each of which draws a part")
    arguments = parser.parse_args()
    shares = arguments.videos // arguments.parts, arguments.tracks // arguments.parts
    with ProcessPoolExecutor(arguments.parts, multiprocessing.get_context("spawn")) as workers:
        parts = [
            workers.submit(draw_videos, arguments.folder / f"videos_{seed}", *shares, seed)
            for seed in range(arguments.parts)
        ]
        for part in parts:
            part.result()


if __name__ == "__main__":
    main()
