"""Measures the host memory of a real ComfyUI over many queue runs: `python -m benchmarks.queue_memory`.

Writes `benchmarks/results/queue_memory.md`. Runs of the short clip workflow follow each other on one server, switching
between two synthetic models (one in bf16, one in scaled fp8); then `/free` is asked for.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_server import ComfyServer, make_base
from prompt_builder import PromptBuilder

from benchmarks import ROOT
from benchmarks.loading import write_files

MODELS = ("bf16.safetensors", "fp8.safetensors")
# Weights of this width are beyond what the C library keeps for itself when they are freed, as those of the 14B are.
FFN_DIM = 16384
SMALL = {"num_clip": 1, "infer_frames": 12, "width": 64, "height": 64, "steps": 1}
MIB = 2**20


@dataclass(frozen=True)
class Figures:
    """Resident bytes of the server: before any run, after each run, and after `/free`."""

    start: int
    runs: list[int]
    freed: int

    def growth(self, settled: int) -> float:
        """MiB a run from number `settled` on, between runs of the same model; of the model that grew least.

        What is not given back adds up whichever model runs, while what the C library keeps differs from run to run.
        """
        runs = self.runs[settled:]
        of_one_model = [runs[place :: len(MODELS)] for place in range(len(MODELS))]
        return min((sizes[-1] - sizes[0]) / MIB / (len(sizes) - 1) / len(MODELS) for sizes in of_one_model if sizes[1:])


def resident(server: ComfyServer) -> int:
    """Bytes of the server's process in RAM."""
    text = Path(f"/proc/{server.process_id}/status").read_text(encoding="utf-8")
    return next(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:"))


def prompt_for(server: ComfyServer, model: str, seed: int) -> PromptBuilder:
    """The short clip workflow with a transformer of its own; the demo bundle gives the other parts."""
    workflow = json.loads((ROOT / "workflows" / "short_clip.json").read_text())
    prompt = PromptBuilder(workflow, server.client.object_info())
    prompt.set("LiveAvatar_ClipScheduler", **SMALL, seed=seed)
    for node in prompt.nodes.values():
        node["inputs"].update(
            {key: value for key, value in SMALL.items() if key == "infer_frames" and key in node["inputs"]}
        )
    prompt.add(
        "model", "LiveAvatar_LoadAvatarModel", model=model, lora="none", lora_strength=1.0, precision="as in file"
    )
    prompt.set("LiveAvatar_DiTSampler", model=["model", 0])
    return prompt


def measure(server: ComfyServer, runs: int, trim: Callable[[], None] = lambda: None) -> Figures:
    """`trim` is called before memory is looked at: a server that ran other things keeps freed memory for itself."""
    start, after = resident(server), []
    for number in range(runs):
        prompt = prompt_for(server, MODELS[number % len(MODELS)], seed=number)
        server.client.run(prompt.nodes).raise_for_error()
        trim()
        after.append(resident(server))
    server.client.post("/free", {"free_memory": True, "unload_models": True})
    freed = [after[-1]]
    for _ in range(20):
        time.sleep(1)
        trim()
        freed.append(resident(server))
        # The server frees in steps, between two looks at its queue.
        if freed[-1] < after[-1] - 8 * MIB and freed[-1] == freed[-2]:
            break
    return Figures(start, after, freed[-1])


def provide_models(base: Path, layers: int) -> int:
    """Writes the two models into the server's model folder; returns the bytes of both files."""
    folder = base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        write_files(Path(made), layers, MODELS, FFN_DIM)
        for name in MODELS:
            os.replace(Path(made) / name, folder / name)
    return sum((folder / name).stat().st_size for name in MODELS)


def report(figures: Figures, size: int) -> str:
    first = ", ".join(f"{value / MIB:.0f}" for value in figures.runs[:4])
    rows: dict[str, Any] = {
        "both model files": f"{size / MIB:.0f} MiB",
        "server before the first run": f"{figures.start / MIB:.0f} MiB",
        "after runs 1 to 4": f"{first} MiB",
        f"after run {len(figures.runs)}": f"{figures.runs[-1] / MIB:.0f} MiB",
        "growth a run, from run 5 on": f"{figures.growth(4):+.2f} MiB",
        "after /free": f"{figures.freed / MIB:.0f} MiB",
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    head = [
        "# Host memory over many queue runs",
        "",
        f"By `python -m benchmarks.queue_memory`: {len(figures.runs)} runs on one ComfyUI (`--cpu`), switching between",
        "two models at every run. Figures are the resident memory of the server's process; before the first run",
        "most of what it needs is not imported yet. The C library was told to give back what is freed",
        "(MALLOC_MMAP_THRESHOLD_); otherwise it keeps some of that for itself.",
        "",
        "| | |",
        "| --- | --- |",
    ]
    return "\n".join([*head, *lines]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--layers", type=int, default=2, help="size of the synthetic models")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "queue_memory.md")
    arguments = parser.parse_args()
    # Without it the figures would show what the C library keeps, not what the server holds.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(MIB)
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        size = provide_models(base, arguments.layers)
        with ComfyServer(comfyui, base) as server:
            figures = measure(server, arguments.runs)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(report(figures, size))
    print(arguments.output.read_text(), [value // MIB for value in figures.runs])


if __name__ == "__main__":
    main()
