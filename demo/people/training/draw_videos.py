"""Draws the videos that everything is trained on, in several processes."""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .videos import Amount, draw_videos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=720)
    parser.add_argument("--tracks", type=int, default=240, help="voices, each used by several videos")
    parser.add_argument("--driven", type=int, default=160, help="further videos, whose heads a pose video moves")
    parser.add_argument("--parts", type=int, default=8, help="of each kind; what is whole is not drawn again")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    parts, voices = arguments.parts, arguments.tracks // arguments.parts
    kinds = {
        "videos": Amount(arguments.videos // parts, voices),
        "driven": Amount(arguments.driven // parts, voices // 3, driven=True),
    }
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as workers:
        begun = [
            workers.submit(draw_videos, arguments.folder / f"{kind}_{part}", amount, 100 * number + part)
            for number, (kind, amount) in enumerate(kinds.items())
            for part in range(parts)
        ]
        for one in begun:
            one.result()


if __name__ == "__main__":
    main()
