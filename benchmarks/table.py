"""The published table of lengths and sizes, made on this machine or another: `python -m benchmarks.table`.

Without --server a ComfyUI is started with the demo model, whose only size takes the place of the published ones. With
--server a running ComfyUI makes the rows with the 14B model's template, or with the workflow that --workflow names:

    python -m benchmarks.table --divide 10
    python -m benchmarks.table --server http://127.0.0.1:8188 --rows 1,2 --set "Load Avatar Model.executor=auto"

All figures are those of the runs' own reports (JSON beside the video). Writes benchmarks/results/table.md, or --out.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_client import ComfyClient
from comfy_server import ComfyServer, make_base
from comfy_workflow import nodes_of, set_input, to_prompt
from workflow_jobs import Job, apply_settings, find_workflow, parse_setting

from benchmarks import ROOT
from liveavatar_runtime.run_report import markdown_table
from liveavatar_runtime.texts import seconds_text, size_text

RESULT = ROOT / "benchmarks" / "results" / "table.md"
SCHEDULER, SAMPLER, DECODE = (f"LiveAvatar_{name}" for name in ("ClipScheduler", "DiTSampler", "OnlineVAEDecode"))
FPS, STEPS, BLOCK = 16, 4, 12
DEMO, DEMO_SIZE = "short_clip", (64, 64)
HEAD = ("clips", "size", "frames/clip", "video", "time", "peak/card", "first frame")


@dataclass(frozen=True)
class Row:
    """A row as it was published: on four RTX 4090, by others."""

    clips: int
    size: tuple[int, int]
    frames: int
    time: str
    peak: str
    first: str

    @property
    def possible_frames(self) -> int:
        """Frames of a clip as they can be made, whole blocks."""
        return -(-self.frames // BLOCK) * BLOCK

    def cells(self) -> tuple[object, ...]:
        width, height = self.size
        video = self.clips * self.frames // FPS
        return self.clips, f"{width}x{height}", self.frames, f"{video} s", self.time, self.peak, self.first


ROWS = (
    Row(10, (384, 256), 32, "1m42s", "13.2 GB", "4.8 s"),
    Row(50, (688, 368), 48, "12m18s", "19.7 GB", "5.2 s"),
    Row(100, (688, 368), 48, "23m55s", "20.1 GB", "5.3 s"),
    Row(100, (704, 384), 48, "38m07s", "21.9 GB", "5.5 s"),
    Row(200, (688, 368), 48, "46m22s", "20.3 GB", "5.4 s"),
)


@dataclass(frozen=True)
class Setup:
    """Who makes the rows: a server, a workflow with settings, the size in place of the published ones (None: these),
    and by what the number of clips is divided."""

    client: ComfyClient
    workflow: Path
    settings: Sequence[str]
    size: tuple[int, int] | None
    divide: int

    def clips(self, row: Row) -> int:
        return max(2, row.clips // self.divide)


def voice_file(folder: Path, seconds: float) -> Path:
    """The demo's voice over and over, as long as a video needs."""
    with wave.open(str(ROOT / "demo" / "voice.wav"), "rb") as source:
        shape, sound = source.getparams(), source.readframes(source.getnframes())
    path = folder / f"voice_{seconds:.0f}s.wav"
    times = int(seconds * shape.framerate * shape.sampwidth * shape.nchannels / len(sound)) + 2
    with wave.open(str(path), "wb") as target:
        target.setparams(shape)
        target.writeframes(sound * times)
    return path


def made(setup: Setup, row: Row, info: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The report of a row. Raises RunFailed."""
    client, clips = setup.client, setup.clips(row)
    prompt = to_prompt(json.loads(setup.workflow.read_text(encoding="utf-8")), dict(info))
    apply_settings(prompt, Job("table", setup.workflow, tuple(map(parse_setting, setup.settings))), client, info)
    width, height = setup.size or row.size
    voice = client.upload(voice_file(folder, clips * row.possible_frames / FPS))
    wanted = {
        "LoadAudio": {"audio": voice},
        # What is replayed was not made.
        SAMPLER: {"spool": "until ComfyUI ends"},
        SCHEDULER: {"size": "custom", "width": width, "height": height, "keep_aspect": False, "num_clip": clips}
        | {"infer_frames": row.possible_frames, "fps": float(FPS), "steps": STEPS}
        # Equal rows of a model with one size would be one run.
        | {"seed": ROWS.index(row)},
        DECODE: {"filename_prefix": "LiveAvatar/table"},
    }
    for kind, inputs in wanted.items():
        for name, value in inputs.items():
            set_input(prompt, kind, name, value)
    result = client.run(prompt)
    result.raise_for_error()
    (decode,) = nodes_of(prompt, DECODE)
    file = result.outputs[decode]["images"][0]
    report = client.view(str(Path(file["filename"]).with_suffix(".json")), file["subfolder"])
    return json.loads(report)


def cells(report: Mapping[str, Any]) -> tuple[object, ...]:
    """Of a report, as HEAD names them."""
    video, memory = report["video"], report["memory"]
    cards = [place["used"] for place in memory if place["device"] != "cpu"]
    peak = max(cards or [place["used"] for place in memory])
    return (
        video["clips"],
        f"{video['width']}x{video['height']}",
        video["infer_frames"],
        seconds_text(video["seconds"]),
        seconds_text(report["seconds"]),
        size_text(peak) + ("" if cards else " (RAM)"),
        seconds_text(report["first_frame_seconds"]),
    )


def text_of(rows: Sequence[Row], reports: Sequence[Mapping[str, Any]], shortened: str) -> str:
    """The page: what was made, beside what was published, with what held each run up."""
    last = reports[-1]
    names = dict.fromkeys(f"{place['name']}" for report in reports for place in report["memory"])
    versions = ", ".join(f"{name} {value}" for name, value in last["versions"].items() if value)
    plan = last["settings"]["plan"]
    held_up = [
        (number, f"{report['realtime']:.2f}x", *_block(report), report["bottleneck"])
        for number, report in enumerate(reports, 1)
    ]
    parts = [
        "# The published table, made here",
        "`python -m benchmarks.table`, " + time.strftime("%Y-%m-%d") + f". {', '.join(names)}; {versions}.",
        f"{plan['steps']} steps, {plan['fps']} frames a second, {last['settings']['dtype']}, executor "
        f"{last['settings']['executor']}. {shortened}",
        markdown_table(HEAD, [cells(report) for report in reports]),
        "All of a run counts: preparing the decoder, sampling, decoding, encoding. The first frame is one in the file.",
        markdown_table(("row", "real time", "block, median", "variation", "what held it up"), held_up),
        "Published, by others, for the 14B model on four RTX 4090:",
        markdown_table(HEAD, [row.cells() for row in rows]),
    ]
    return "\n\n".join(parts) + "\n"


def _block(report: Mapping[str, Any]) -> tuple[str, str]:
    each = report["block_seconds"]
    return ("-", "-") if each is None else (seconds_text(each["median"]), f"{each['variation']:.0%}")


def told_changes(setup: Setup, rows: Sequence[Row]) -> str:
    """What differs from the published rows."""
    shorter = [str(setup.clips(row)) for row in rows if setup.clips(row) < row.clips]
    changes = [f"Clips are made in whole blocks of {BLOCK} frames, so 36 in place of 32."]
    if shorter:
        changes.append(f"Shortened: {', '.join(shorter)} clips in place of {', '.join(str(r.clips) for r in rows)}.")
    if setup.size is not None:
        changes.append(f"The demo model knows {setup.size[0]}x{setup.size[1]} only, so all rows have that size.")
    return " ".join(changes)


@contextlib.contextmanager
def setup_of(options: argparse.Namespace, folder: Path) -> Iterator[Setup]:
    """The server that was named, or one of our own with the demo."""
    if options.server:
        workflow = find_workflow(options.workflow or "avatar_14b", Path())
        yield Setup(ComfyClient(options.server), workflow, options.set, None, options.divide)
        return
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    workflow = find_workflow(options.workflow or DEMO, Path())
    with ComfyServer(comfyui, make_base(folder)) as server:
        yield Setup(server.client, workflow, options.set, DEMO_SIZE, options.divide)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", metavar="URL", help="a running ComfyUI with the pack and the 14B model's files")
    parser.add_argument(
        "--workflow", metavar="NAME", help=f"a template or a file (avatar_14b; {DEMO} without --server)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change an input")
    parser.add_argument("--rows", default="1,2,3,4,5", help="which of the five rows (1,2,3,4,5)")
    parser.add_argument("--divide", type=int, default=1, metavar="N", help="a Nth of the clips, for a slow machine")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE", help="(benchmarks/results/table.md)")
    options = parser.parse_args()
    rows = [ROWS[int(number) - 1] for number in options.rows.split(",")]
    reports: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, setup_of(options, Path(folder)) as setup:
        info = setup.client.object_info()
        for row in rows:
            reports.append(made(setup, row, info, Path(folder)))
            print(" | ".join(map(str, cells(reports[-1]))), flush=True)
            options.out.write_text(text_of(rows, reports, told_changes(setup, rows)), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
