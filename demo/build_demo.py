"""Builds the demo model: `python -m demo.build_demo` writes `demo/liveavatar-demo`, the same bytes each time.

The folder has the layout of the official Wan2.2-S2V-14B one, at a thousandth of its size. Needs sentencepiece.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from demo import architecture, weights
from demo.tokenizer import train_tokenizer
from liveavatar_runtime.checkpoint.bundle import VIDEO_SIZE
from liveavatar_runtime.config import AvatarConfig

ROOT = Path(__file__).resolve().parents[1]

OUTPUT = ROOT / "demo" / "liveavatar-demo"
SEED = 20240
# What ComfyUI's core cannot tell from the shapes; it hands these to its model class by name.
CORE_CONFIG_KEYS = (
    "dim",
    "ffn_dim",
    "num_heads",
    "num_layers",
    "audio_inject_layers",
    "audio_dim",
    "num_audio_token",
    "cond_dim",
    "in_dim",
    "out_dim",
    "text_dim",
    "text_len",
    "freq_dim",
    "eps",
)


def transformer_config(config: AvatarConfig, side: int = architecture.VIDEO_SIDE) -> dict[str, Any]:
    """Content of the bundle's `config.json`; a demo is trained at one size only, side x side pixels."""
    return {"_class_name": "WanModel_S2V", **config.to_dict(), VIDEO_SIZE: [side, side]}


def build_transformer(folder: Path, seed: int) -> None:
    """`config.json` and `diffusion_pytorch_model.safetensors`."""
    config = architecture.TRANSFORMER
    write_json(folder / "config.json", transformer_config(config))
    tensors = weights.transformer_weights(config, seed)
    write_weights(folder / "diffusion_pytorch_model.safetensors", tensors, {"config": core_config(config)})


def build_vae(folder: Path, seed: int) -> None:
    """`Wan2.1_VAE.safetensors`."""
    write_weights(folder / "Wan2.1_VAE.safetensors", weights.vae_weights(architecture.VAE, seed))


def build_text_encoder(folder: Path, seed: int) -> None:
    """`umt5/`: config, weights in the names of ComfyUI's repackaged files, tokenizer."""
    config = architecture.TEXT_ENCODER
    write_json(folder / "umt5" / "config.json", config)
    write_weights(folder / "umt5" / "model.safetensors", weights.text_weights(config, seed))
    (folder / "umt5" / "spiece.model").write_bytes(train_tokenizer(architecture.TOKENIZER_PIECES))


def build_audio_encoder(folder: Path, seed: int) -> None:
    """`wav2vec2/`, as Hugging Face lays it out."""
    write_json(folder / "wav2vec2" / "config.json", architecture.AUDIO_ENCODER)
    write_json(folder / "wav2vec2" / "preprocessor_config.json", architecture.AUDIO_PREPROCESSOR)
    tensors = weights.audio_weights(architecture.AUDIO_ENCODER, seed)
    write_weights(folder / "wav2vec2" / "model.safetensors", tensors)


def core_config(config: AvatarConfig) -> str:
    """The "config" entry of a safetensors header, from which ComfyUI's core takes the sizes of a transformer."""
    values = config.to_dict()
    return json.dumps({"transformer": {key: values[key] for key in CORE_CONFIG_KEYS}}, sort_keys=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def write_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One entry only: safetensors writes several in an order that changes from run to run.
    save_file(tensors, path, metadata=metadata or {"format": "pt"})
    count = weights.parameter_count(tensors.values())
    print(f"{path.name}: {count:,} parameters, {path.stat().st_size:,} bytes", flush=True)


BUILDERS = (build_transformer, build_vae, build_text_encoder, build_audio_encoder)


def build(folder: Path, seed: int = SEED) -> None:
    """Write the whole bundle; what is there is replaced."""
    for builder in BUILDERS:
        builder(folder, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of all weights (default: %(default)s)")
    arguments = parser.parse_args()
    build(arguments.output, arguments.seed)
    print(f"done: {arguments.output}")


if __name__ == "__main__":
    main()
