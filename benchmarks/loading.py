"""Measures memory and time of loading a model: `python -m benchmarks.loading` writes `benchmarks/results/loading.md`.

A synthetic Wan2.2-S2V of half a gigabyte with random weights is written in each format, and each way of loading it runs
in a process of its own. The peak is the operating system's own (VmHWM of Linux): all memory of the process, pages of
mapped files included, above what it had before. It is given in units of the weights that are kept afterwards.
"""

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import ROOT
from liveavatar_runtime.checkpoint.detect import expected_shapes
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.config import DEMO, AvatarConfig

FP8 = torch.float8_e4m3fn
ALLOWED = 1.15
"""Peak memory in units of the weights kept."""


def synthetic(layers: int, ffn_dim: int) -> AvatarConfig:
    """Twelve layers with 4096 are half a gigabyte in bf16. Takes what the demo model's text and audio encoders give."""
    shape = {"dim": 1024, "ffn_dim": ffn_dim, "num_heads": 8, "num_layers": layers}
    return replace(DEMO, **shape, audio_inject_layers=(0, layers - 1))


def weights(config: AvatarConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = expected_shapes(config)
    return {name: torch.randn(shape, generator=generator).mul_(0.02).bfloat16() for name, shape in shapes.items()}


def is_layer(name: str, tensor: Tensor) -> bool:
    return name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2


FILES = ("bf16.safetensors", "fp8.safetensors", "folder", "q8.gguf")


def write_files(folder: Path, layers: int, names: Sequence[str] = FILES, ffn_dim: int = 4096) -> None:
    """One model in the formats of `names`; "folder" has two shards."""
    config = synthetic(layers, ffn_dim)
    tensors = weights(config)
    header = {"config": json.dumps({"transformer": config.to_dict()})}
    writers: dict[str, Callable[[Path], None]] = {
        "bf16.safetensors": lambda path: save_file(tensors, path, metadata=header),
        "fp8.safetensors": lambda path: write_fp8(tensors, header, path),
        "folder": lambda path: write_shards(tensors, config, path),
        "q8.gguf": lambda path: write_gguf(tensors, header, path),
    }
    for name in names:
        writers[name](folder / name)


def write_fp8(tensors: dict[str, Tensor], header: dict[str, str], path: Path) -> None:
    """ComfyUI's layout: fp8 weights, a scale and a format for each layer."""
    entries = {}
    how = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    for name, tensor in tensors.items():
        entries[name] = tensor
        if is_layer(name, tensor):
            scale = tensor.float().abs().max() / torch.finfo(FP8).max
            entries[name] = (tensor.float() / scale).to(FP8)
            entries[name.replace(".weight", ".weight_scale")] = scale
            entries[name.replace(".weight", ".comfy_quant")] = how.clone()
    save_file(entries, path, metadata=header)


def write_shards(tensors: dict[str, Tensor], config: AvatarConfig, folder: Path) -> None:
    folder.mkdir()
    where = {}
    names = list(tensors)
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))


def write_gguf(tensors: dict[str, Tensor], header: dict[str, str], path: Path) -> None:
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_string("config", header["config"])
    for name, tensor in tensors.items():
        values = tensor.float().numpy()
        if values.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(size) for size in values.shape])
            values = values.reshape(values.shape[0], -1)
        kind = gguf.GGMLQuantizationType.Q8_0 if is_layer(name, tensor) else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def core_model() -> Any:
    """The pack's nodes/core_model.py in a ComfyUI on the CPU."""
    sys.path.insert(0, os.environ.get("COMFYUI_PATH", str(ROOT / ".comfyui" / "ComfyUI")))
    options: Any = importlib.import_module("comfy.options")
    options.enable_args_parsing(False)
    arguments: Any = importlib.import_module("comfy.cli_args")
    arguments.args.cpu = True
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])
    return importlib.import_module("pack.comfy_bridge.core_model")


def touch(model: torch.nn.Module) -> torch.nn.Module:
    """Reads every weight once, so that mapped ones count."""
    for tensor in model.state_dict().values():
        tensor.view(-1).view(torch.uint8).max()
    return model


Load = Callable[[Path], torch.nn.Module]


def by_core(precision: Any) -> Load:
    core = core_model()
    return lambda path: core.load_with_core(path, [], precision).model.diffusion_model


def by_runtime(dtype: torch.dtype | None) -> Load:
    return lambda path: load_transformer(path, dtype=dtype)


# Name -> file, and what makes the function that is measured.
WAYS: dict[str, tuple[str, Callable[[], Load]]] = {
    "ComfyUI: bf16, as in file": ("bf16.safetensors", lambda: by_core("as in file")),
    "ComfyUI: bf16, auto on a CPU (float32)": ("bf16.safetensors", lambda: by_core(None)),
    "ComfyUI: bf16 to fp8_e4m3fn": ("bf16.safetensors", lambda: by_core(FP8)),
    "ComfyUI: folder of shards, as in file": ("folder", lambda: by_core("as in file")),
    "ComfyUI: scaled fp8": ("fp8.safetensors", lambda: by_core(None)),
    "ComfyUI: GGUF Q8_0 to bf16": ("q8.gguf", lambda: by_core("as in file")),
    "runtime: bf16, mapped, all weights read": ("bf16.safetensors", lambda: lambda path: touch(load_transformer(path))),
    "runtime: bf16 to float16": ("bf16.safetensors", lambda: by_runtime(torch.float16)),
    "runtime: folder of shards to float16": ("folder", lambda: by_runtime(torch.float16)),
    "runtime: scaled fp8 to bf16": ("fp8.safetensors", lambda: by_runtime(None)),
    "runtime: GGUF Q8_0 to bf16": ("q8.gguf", lambda: by_runtime(None)),
}


def status(key: str) -> int:
    """Bytes of a memory figure of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure(way: str, folder: Path) -> dict[str, float]:
    """Loads in this process: bytes kept, peak bytes above the start, seconds."""
    file, make = WAYS[way]
    load = make()
    # Modules that are imported on first use are not what is measured.
    load(ROOT / "demo" / "liveavatar-demo")
    # Starts the peak anew.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before, start = status("VmRSS"), time.perf_counter()
    model = load(folder / file)
    seconds, peak = time.perf_counter() - start, status("VmHWM") - before
    return {"kept": kept_bytes(model), "peak": peak, "seconds": seconds}


def kept_bytes(model: torch.nn.Module) -> int:
    total = 0
    for weight in model.parameters():
        stored = getattr(weight, "_qdata", weight)
        total += stored.numel() * stored.element_size()
    return total


def measure_apart(way: str, folder: Path) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", "--way", way, "--folder", str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    return json.loads(output.splitlines()[-1])


def report(rows: dict[str, dict[str, float]]) -> str:
    table = [
        "# Memory and time of loading",
        "",
        "By `python -m benchmarks.loading` on a CPU (Linux): a synthetic Wan2.2-S2V with random weights. The peak is",
        "all memory of the process above what it had before, mapped pages included, during the whole loading.",
        f"Allowed is {ALLOWED:g} times the weights that are kept.",
        "",
        "| way of loading | weights kept | peak | peak / kept | met | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way, row in rows.items():
        ratio = row["peak"] / row["kept"]
        met = "yes" if ratio <= ALLOWED else "**no**"
        sizes = f"{row['kept'] / 2**20:.0f} MiB | {row['peak'] / 2**20:.0f} MiB"
        table.append(f"| {way} | {sizes} | {ratio:.2f} | {met} | {row['seconds']:.1f} |")
    return "\n".join(table) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12, help="size of the synthetic model")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "loading.md")
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process, print JSON")
    parser.add_argument("--folder", type=Path, help="where write_files() has put the files")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), arguments.layers)
        rows = {}
        for way in WAYS:
            rows[way] = measure_apart(way, Path(folder))
            print(way, rows[way], flush=True)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(report(rows))
    print(arguments.output.read_text())


if __name__ == "__main__":
    main()
