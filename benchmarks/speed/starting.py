"""What the pack adds to the start of ComfyUI: processor seconds of the server until it answers, with it and without."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from scripts.comfy_server import ComfyServer, make_base

from .setup import Row, Setup


def rows(setup: Setup) -> Iterator[Row]:
    if setup.comfyui is None:
        yield Row.skipped("start", "ComfyUI: no folder was given with --comfyui")
        return
    pairs = [(_seconds(setup.comfyui, True), _seconds(setup.comfyui, False)) for _ in range(setup.few(5) + 1)][1:]
    with_pack, without = (statistics.median(column) for column in zip(*pairs, strict=True))
    values = {"with, s": with_pack, "without, s": without, "ratio": with_pack / without}
    yield Row("start", "until the server answers", "ComfyUI without the pack", values)


def _seconds(comfyui: Path, with_pack: bool) -> float:
    arguments = [] if with_pack else ["--disable-all-custom-nodes"]
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        with ComfyServer(comfyui, base, arguments=arguments) as server:
            times = psutil.Process(server.process_id).cpu_times()
    return times.user + times.system
