"""Every loader of files that others write, with a small real file for it to be broken."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.detect import expected_shapes
from liveavatar_runtime.checkpoint.lora import fit_lora, open_lora
from liveavatar_runtime.checkpoint.lora_merge import check_mergeable, merged
from liveavatar_runtime.checkpoint.lora_search import look_alikes
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint, read_weight_file
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.config import DEMO
from liveavatar_runtime.planning.calibration import load_calibrations
from liveavatar_runtime.reading import readable
from liveavatar_runtime.vae import load_wan_vae

from .mutations import BYTES, JSON, SAFETENSORS, Mutation, archive

BUNDLE = Path(__file__).parents[2] / "demo" / "liveavatar-demo"
MODEL, INDEX = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"
SINGLE, ADAPTER = "model.safetensors", "adapter_model.safetensors"
SHAPES = expected_shapes(DEMO)
MODULES = ("blocks.0.self_attn.q", "blocks.1.ffn.0", "audio_injector.injector.0.q")
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Loader:
    """`make` writes the files into a folder; `file` is the one to break; `load` reads the folder."""

    name: str
    file: str
    kinds: tuple[Mutation, ...]
    make: Callable[[Path], object]
    load: Callable[[Path], object]

    def __str__(self) -> str:
        return self.name


def copied(*names: str) -> Callable[[Path], None]:
    """These parts of the demo's folder."""

    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(BUNDLE / name, folder / name)

    return make


def alone(folder: Path) -> None:
    """The transformer with its config in the header, without a folder around it."""
    shutil.copyfile(BUNDLE / MODEL, folder / SINGLE)


def in_shards(folder: Path) -> None:
    copied("config.json")(folder)
    weights, where = load_file(BUNDLE / MODEL), {}
    for number in (1, 2):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        part = {name: weights[name] for name in sorted(weights)[number - 1 :: 2]}
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


def quantised(folder: Path) -> None:
    """Layers in the three layouts that programs write."""
    weights = load_file(BUNDLE / MODEL)
    scale = torch.tensor(0.5)
    for name in MODULES[:1]:
        note = json.dumps({"format": "float8_e4m3fn"}).encode()
        weights |= {f"{name}.weight": weights[f"{name}.weight"].to(FP8), f"{name}.weight_scale": scale}
        weights[f"{name}.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
    name = MODULES[1]
    weights |= {
        f"{name}.weight": weights[f"{name}.weight"].to(FP8),
        f"{name}.weight_scale": scale.clone().reshape(1, 1),
    }
    notes = {"layers": {name: {"format": "float8_e4m3fn"}}}
    source = open_checkpoint(BUNDLE / MODEL).metadata
    save_file(weights, folder / SINGLE, {**source, "_quantization_metadata": json.dumps(notes)})


def in_gguf(folder: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(folder / "model.gguf", "wan")
    source = open_checkpoint(BUNDLE / MODEL)
    writer.add_string("config", source.metadata["config"])
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_array("tokenizer.ggml.scores", [1.0, 2.0])
    for name, tensor in source.tensors.items():
        values = tensor.float().numpy()
        if values.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(values.shape))
            values = values.reshape(values.shape[0], -1)
        kind = gguf.GGMLQuantizationType.Q8_0
        if name.startswith("blocks.") and name.endswith(".weight") and values.ndim == 2:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def lora(folder: Path) -> None:
    """Factors in PEFT's naming and ComfyUI's, LoKr, a difference; what PEFT notes in the header."""
    tensors: dict[str, torch.Tensor] = {}
    for number, module in enumerate(MODULES):
        rows, columns = SHAPES[f"{module}.weight"]
        start = ("base_model.model.", "diffusion_model.", "transformer.")[number]
        tensors |= {
            f"{start}{module}.lora_A.weight": torch.ones(4, columns) / 8,
            f"{start}{module}.lora_B.weight": torch.ones(rows, 4) / 8,
        }
    tensors[f"diffusion_model.{MODULES[1]}.alpha"] = torch.tensor(2.0)
    tensors["diffusion_model.blocks.2.self_attn.k.lokr_w1"] = torch.ones(2, 2)
    tensors["diffusion_model.blocks.2.self_attn.k.lokr_w2"] = torch.ones(64, 64)
    tensors["diffusion_model.blocks.2.self_attn.o.diff_b"] = torch.ones(128)
    noted = {"transformer.lora_alpha": 8, "transformer.r": 4, "transformer.alpha_pattern": {"blocks.0.*q": 2}}
    save_file(tensors, folder / ADAPTER, {"lora_adapter_metadata": json.dumps(noted)})


def lora_and_config(folder: Path) -> None:
    lora(folder)
    file = folder / ADAPTER
    save_file(load_file(file), file)
    noted = {"lora_alpha": 8, "r": 4, "alpha_pattern": {"self_attn.q": 2}, "use_rslora": True}
    (folder / "adapter_config.json").write_text(json.dumps(noted))


def load_lora(folder: Path) -> None:
    fitted = fit_lora(open_lora(folder / ADAPTER), SHAPES)
    fitted.describe(1.0)
    fitted.shortfall()
    fitted.for_core()
    check_mergeable(fitted)
    for name, changes in fitted.by_target().items():
        merged(name, torch.zeros(SHAPES[name]), changes, 1.0)


def in_archive(folder: Path) -> None:
    torch.save(load_file(BUNDLE / "Wan2.1_VAE.safetensors"), folder / "vae.pth")


def load_archive(folder: Path) -> None:
    """As nodes and workers do."""
    with readable(folder / "vae.pth", "a VAE"):
        load_wan_vae(read_weight_file(folder / "vae.pth")[0])


def calibrated(folder: Path) -> None:
    values = {"card": "NVIDIA H100", "memory": 8e10, "flops": 5e14, "decode_flops": None, "measured_with": "torch"}
    (folder / "card.json").write_text(json.dumps(values))


def config_and_size(folder: Path) -> None:
    size = find_bundle(folder).video_size
    assert size is None or all(0 < side <= 2**16 for side in size)
    load_transformer(folder)


RUNTIME = (
    Loader("transformer", MODEL, SAFETENSORS, copied("config.json", MODEL), load_transformer),
    Loader("config.json", "config.json", JSON, copied("config.json", MODEL), config_and_size),
    Loader("config in the header", SINGLE, SAFETENSORS, alone, lambda folder: load_transformer(folder / SINGLE)),
    Loader("index", INDEX, JSON, in_shards, load_transformer),
    Loader("quantised", SINGLE, SAFETENSORS, quantised, lambda folder: load_transformer(folder / SINGLE)),
    Loader("GGUF", "model.gguf", BYTES, in_gguf, lambda folder: load_transformer(folder / "model.gguf")),
    Loader("LoRA", ADAPTER, SAFETENSORS, lora, load_lora),
    Loader("LoRA's config", "adapter_config.json", JSON, lora_and_config, load_lora),
    Loader("archive", "vae.pth", (archive, *BYTES), in_archive, load_archive),
    Loader("calibration", "card.json", JSON, calibrated, load_calibrations),
    Loader(
        "search for LoRAs", ADAPTER, SAFETENSORS, lora, lambda folder: look_alikes({"one": folder / ADAPTER}, SHAPES)
    ),
)


def bundle_loaders(clip: ModuleType, parts: ModuleType) -> tuple[Loader, ...]:
    """Those of the pack's `nodes.bundle_clip` and `nodes.bundle_parts`, which need ComfyUI."""
    text = ("umt5/config.json", "umt5/model.safetensors", "umt5/spiece.model")
    voice = ("wav2vec2/config.json", "wav2vec2/model.safetensors")
    whole = copied("config.json", MODEL, "Wan2.1_VAE.safetensors", *text, *voice)

    def loader(name: str, file: str, kinds: tuple[Mutation, ...], load: Callable[[Any], object]) -> Loader:
        return Loader(name, file, kinds, whole, lambda folder: load(find_bundle(folder)))

    return (
        loader("VAE", "Wan2.1_VAE.safetensors", SAFETENSORS, parts.load_bundle_vae),
        loader("audio encoder", voice[1], SAFETENSORS, parts.load_bundle_audio_encoder),
        loader("audio encoder's config", voice[0], JSON, parts.load_bundle_audio_encoder),
        loader("text encoder", text[1], SAFETENSORS, clip.load_bundle_clip),
        loader("text encoder's config", text[0], JSON, clip.load_bundle_clip),
        loader("tokenizer", text[2], BYTES, clip.load_bundle_clip),
    )
