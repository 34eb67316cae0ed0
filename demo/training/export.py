"""Writes the trained weights into a bundle in the official layout."""

import argparse
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from demo.architecture import AUDIO_ENCODER, AUDIO_PREPROCESSOR, TRANSFORMER, VIDEO_SIDE
from demo.build_demo import core_config, transformer_config, write_json, write_weights


def half(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype).contiguous() for name, value in sorted(tensors.items())}


def export(folder: Path, base: Path, output: Path, side: int) -> None:
    """`folder` holds the training checkpoints, `base` the bundle whose text encoder is kept; videos are side x side.

    The transformer is stored in bfloat16, as the official one; VAE and audio encoder in float16, which is finer.
    """
    output.mkdir(parents=True, exist_ok=True)
    if base.resolve() != output.resolve():
        shutil.copytree(base / "umt5", output / "umt5", dirs_exist_ok=True)
    write_json(output / "config.json", transformer_config(TRANSFORMER, side))
    transformer = torch.load(folder / "dit.pt", weights_only=True)["model"]
    metadata = {"config": core_config(TRANSFORMER)}
    write_weights(output / "diffusion_pytorch_model.safetensors", half(transformer, torch.bfloat16), metadata)
    refined = folder / "vae_refined.pt"
    vae = torch.load(refined if refined.exists() else folder / "vae.pt", weights_only=True)
    write_weights(output / "Wan2.1_VAE.safetensors", half(vae, torch.float16))
    write_json(output / "wav2vec2" / "config.json", AUDIO_ENCODER)
    write_json(output / "wav2vec2" / "preprocessor_config.json", AUDIO_PREPROCESSOR)
    audio = torch.load(folder / "audio.pt", weights_only=True)
    write_weights(output / "wav2vec2" / "model.safetensors", half(audio, torch.float16))
    print(json.dumps({path.name: path.stat().st_size for path in sorted(output.rglob("*.safetensors"))}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="training checkpoints")
    parser.add_argument("--base", type=Path, required=True, help="bundle whose text encoder is used")
    parser.add_argument("--output", type=Path, required=True, help="bundle to write")
    parser.add_argument("--side", type=int, default=VIDEO_SIDE, help="pixels of a side of its videos")
    arguments = parser.parse_args()
    export(arguments.folder, arguments.base, arguments.output, arguments.side)


if __name__ == "__main__":
    main()
