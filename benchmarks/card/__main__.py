"""`python -m benchmarks.card --minutes 9 --out DIR`: measures the card of this machine. See docs/MEASURING.md."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __doc__ as purpose
from .compare import adopt
from .parent import Options, measure
from .plan import PARTS


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.card", description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, help="folder for the results: one JSON file, one page, a calibration, a log")
    made.add_argument("--minutes", type=float, default=9.0, help="time for all of it; what would not fit is left out")
    made.add_argument("--tiny", action="store_true", help="the demo's sizes on the processor: whether it works")
    made.add_argument(
        "--tiny-on-card", action="store_true", help="those sizes on the card: whether all of it works there"
    )
    made.add_argument("--comfyui", type=Path, metavar="DIR", help="ComfyUI's modules too, from what card.pack made")
    made.add_argument("--original", type=Path, metavar="DIR", help="a checkout of the original program, measured too")
    made.add_argument("--only", default="", metavar="PARTS", help=f"of {', '.join(part.name for part in PARTS)}")
    made.add_argument(
        "--adopt", type=Path, metavar="DIR", help="copy results of a run to their places in this checkout"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """1 when a result is wrong, which errors in a step that checks results count as; 2 without a card; else 0."""
    command = parser()
    options = command.parse_args(arguments)
    if options.adopt:
        print(*adopt(options.adopt), sep="\n")
        return 0
    if options.out is None:
        command.error("give a folder for the results: --out DIR")
    only = tuple(name.strip() for name in options.only.split(",") if name.strip())
    unknown = sorted(set(only) - {part.name for part in PARTS})
    if unknown:
        command.error(f"--only names {', '.join(unknown)}; there are {', '.join(part.name for part in PARTS)}")
    if not 0.1 <= options.minutes <= 24 * 60:
        command.error(f"--minutes is {options.minutes:g}; allowed are 0.1 to {24 * 60}")
    tiny = options.tiny or options.tiny_on_card
    folders = {name: getattr(options, name) for name in ("comfyui", "original")}
    resolved = {name: None if folder is None else folder.resolve() for name, folder in folders.items()}
    run = Options(options.out.resolve(), options.minutes, tiny, options.tiny_on_card, only=only, **resolved)
    return measure(run)


if __name__ == "__main__":
    sys.exit(main())
