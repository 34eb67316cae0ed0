"""A part in its own process: a card that an error has spoiled, a hang, and memory that is kept end with it."""

import argparse
import faulthandler
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from liveavatar_runtime.errors import MachineError

from .budget import Budget, Step
from .records import Recorder

if TYPE_CHECKING:
    from .bench import Bench

SPOILED = 70
"""Exit code: the device cannot be used any more, and steps are left."""
NO_CARD = 71
"""Exit code: there is none, and nothing was asked for that a processor could do."""
SHORT = 300
"""Characters of an error in the table; the traceback has all."""


@dataclass(frozen=True)
class Task:
    """What a part's process is told. `first`: number of the step to begin with; `until`: see Budget."""

    part: str
    records: Path
    until: float
    first: int = 0
    tiny: bool = False
    tiny_on_card: bool = False
    comfyui: Path | None = None
    original: Path | None = None

    @property
    def on_card(self) -> bool:
        return self.tiny_on_card or not self.tiny

    def arguments(self) -> list[str]:
        given = ["--part", self.part, "--records", str(self.records), "--until", str(self.until)]
        given += ["--first", str(self.first), *(["--tiny"] if self.tiny else [])]
        given += ["--tiny-on-card"] if self.tiny_on_card else []
        for name in ("comfyui", "original"):
            folder = getattr(self, name)
            given += [f"--{name}", str(folder)] if folder is not None else []
        return given


def run_part(task: Task) -> int:
    """The part's steps, each by itself; returns 0, SPOILED when an error has spoiled the device, or NO_CARD."""
    from .plan import part_named

    recorder = Recorder(task.records, task.part)
    steps = part_named(task.part).steps()
    # Only now: these load PyTorch, which takes seconds.
    import torch

    from .bench import Bench

    if task.on_card and not torch.cuda.is_available():
        return NO_CARD
    device = torch.device("cuda", 0) if task.on_card else torch.device("cpu")
    bench = Bench(device, recorder, Budget(task.until), task.tiny, task.comfyui, task.original)
    return run_steps(bench, steps, task.first)


def run_steps(bench: "Bench", steps: Sequence[Step], first: int = 0) -> int:
    """Those from number `first` on; returns as `run_part`."""
    for number, step in list(enumerate(steps))[first:]:
        recorder = bench.record
        recorder.step = step.name
        if step.seconds > bench.budget.left() and not bench.tiny:
            recorder.skip(f"it needs about {step.seconds:.0f} s and {bench.budget.left():.0f} s are left of its part's")
            continue
        recorder.begin(step.name, number)
        if not bench.tiny:
            faulthandler.dump_traceback_later(step.patience, exit=True)
        failed = not _finished(bench, step)
        faulthandler.cancel_dump_traceback_later()
        recorder.end()
        if failed:
            if not usable(bench):
                return SPOILED
            bench.forget()
    return 0


def _finished(bench: "Bench", step: Step) -> bool:
    """Whether the step came to its end. An error is a result, with its traceback."""
    try:
        step.run(bench)
        bench.finish()
    except MachineError as error:
        # The runtime says so of what this machine cannot do at all.
        bench.record.skip(str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the steps after it are still worth their time
        text = f"{type(error).__name__}: {error}"
        bench.record.error(text.split("\n")[0][:SHORT], traceback.format_exc(), step.checks)
        traceback.print_exc(file=sys.stderr)
        return False
    return True


def usable(bench: "Bench") -> bool:
    """Whether the device still computes: some errors of CUDA end everything that a process can do with it."""
    import torch

    try:
        bench.empty()
        one = torch.ones(8, device=bench.device) + 1
        bench.finish()
        return float(one.sum()) == 16.0
    except Exception:  # noqa: BLE001
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--tiny-on-card", action="store_true")
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--original", type=Path)
    return run_part(Task(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    code = main()
    if code == SPOILED:
        # Tidying up with a device that is spoiled may hang or abort.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
