"""Small LoRA files for the demo model in the namings and kinds that programs write: seeded, on four modules."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

MODULES: dict[str, tuple[int, int]] = {
    "blocks.0.self_attn.q": (128, 128),
    "blocks.1.self_attn.v": (128, 128),
    "blocks.2.cross_attn.k": (128, 128),
    "blocks.3.ffn.0": (256, 128),
}
DIFFUSERS = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.self_attn.v": "blocks.1.attn1.to_v",
    "blocks.2.cross_attn.k": "blocks.2.attn2.to_k",
    "blocks.3.ffn.0": "blocks.3.ffn.net.0.proj",
}
RANK = 4
FOLDER_VARIABLE = "LIVEAVATAR_LORA_CASES"
"""Names a folder with files of the same names, to be tried instead of those that are made here."""

Tensors = dict[str, Tensor]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 4


def factors(pattern: str, sides: str | tuple[str, str], modules: Mapping[str, str] | None = None) -> Tensors:
    """The same random low-rank factors under any naming: `pattern` takes the module's name and the side's."""
    tensors = {}
    for number, (module, (out, into)) in enumerate(MODULES.items()):
        written = (modules or {}).get(module, module)
        for side, shape in zip(sides, ((RANK, into), (out, RANK)), strict=True):
            tensors[pattern.format(written, side)] = draw(*shape, seed=10 * number + len(shape) + shape[0])
    return tensors


def kohya(prefix: str, alpha: float) -> Tensors:
    flat = {module: module.replace(".", "_") for module in MODULES}
    alphas = {f"{prefix}{name}.alpha": torch.tensor(alpha) for name in flat.values()}
    return factors(prefix + "{}.lora_{}.weight", ("down", "up"), flat) | alphas


def of_each(make: Callable[[int, int, int], Tensors]) -> Tensors:
    """What `make(out, into, seed)` gives for each module, in ComfyUI's naming."""
    return {
        f"diffusion_model.{module}.{part}": tensor
        for number, (module, size) in enumerate(MODULES.items())
        for part, tensor in make(*size, 100 * (number + 1)).items()
    }


def comfy(alpha: float | None = None) -> Tensors:
    alphas = {} if alpha is None else {f"diffusion_model.{module}.alpha": torch.tensor(alpha) for module in MODULES}
    return factors("diffusion_model.{}.lora_{}.weight", ("down", "up")) | alphas


def magnitudes(ending: str, prefix: str, column: bool) -> Tensors:
    sizes = {module: (2 + draw(out, seed=number).abs()) for number, (module, (out, _)) in enumerate(MODULES.items())}
    return {f"{prefix}{module}.{ending}": size[:, None] if column else size for module, size in sizes.items()}


def loha(out: int, into: int, seed: int) -> Tensors:
    shapes = {"w1_a": (out, RANK), "w1_b": (RANK, into), "w2_a": (out, RANK), "w2_b": (RANK, into)}
    made = {f"hada_{name}": draw(*shape, seed=seed + n) for n, (name, shape) in enumerate(shapes.items())}
    return {**made, "alpha": torch.tensor(4.0)}


def lokr(out: int, into: int, seed: int) -> Tensors:
    # ai-toolkit writes this alpha beside whole factors, where it means nothing.
    whole = {"lokr_w1": draw(2, 2, seed=seed), "lokr_w2": draw(out // 2, into // 2, seed=seed + 1) / 4}
    return {**whole, "alpha": torch.tensor(1e10)}


def lokr_factored(out: int, into: int, seed: int) -> Tensors:
    shapes = {"w1_a": (2, 1), "w1_b": (1, 2), "w2_a": (out // 2, RANK), "w2_b": (RANK, into // 2)}
    made = {f"lokr_{name}": draw(*shape, seed=seed + n) for n, (name, shape) in enumerate(shapes.items())}
    return {**made, "alpha": torch.tensor(2.0)}


def glora(out: int, into: int, seed: int) -> Tensors:
    shapes = {"a1": (into, RANK), "a2": (RANK, into), "b1": (out, RANK), "b2": (RANK, into)}
    return {f"{name}.weight": draw(*shape, seed=seed + n) / 2 for n, (name, shape) in enumerate(shapes.items())}


def oft(out: int, into: int, seed: int) -> Tensors:
    return {"oft_blocks": draw(out // 16, 16, 16, seed=seed)}


def boft(out: int, into: int, seed: int) -> Tensors:
    return {"oft_blocks": draw(3, out // 8, 8, 8, seed=seed), "alpha": torch.tensor(0.0)}


def lightx2v() -> Tensors:
    """Differences of biases and norms beside the factors, as LightX2V and extracted LoRAs have them."""
    return comfy() | {
        "diffusion_model.blocks.0.self_attn.norm_q.diff": draw(128, seed=1),
        "diffusion_model.blocks.0.self_attn.q.diff_b": draw(128, seed=2),
        "diffusion_model.blocks.1.norm3.diff": draw(128, seed=3),
    }


def header(**entries: object) -> dict[str, str]:
    table = {f"transformer.{name}": value for name, value in {"r": RANK, "lora_alpha": RANK, **entries}.items()}
    return {"lora_adapter_metadata": json.dumps(table)}


FILES: dict[str, Tensors] = {
    "dp": factors("diffusion_model.{}.lora_{}.weight", "AB"),
    "diffsynth": factors("{}.lora_{}.default.weight", "AB"),
    "pd": factors("pipe.dit.{}.lora_{}.default.weight", "AB"),
    "un": factors("unet.{}.lora_{}.weight", "AB"),
    "bmd": factors("base_model.model.diffusion_model.{}.lora_{}.weight", "AB"),
    "dif": factors("transformer.{}.lora_{}.weight", "AB", DIFFUSERS),
    "pat": factors("diffusion_model.{}.lora_{}.weight", "AB"),
    "ky": kohya("lora_unet_", 2.0),
    "fun": kohya("lora_unet__", 2.0),
    "lyc": kohya("lycoris_", 4.0),
    "lx": lightx2v(),
    "dora": comfy(4.0) | magnitudes("dora_scale", "diffusion_model.", column=True),
    "dora_peft": factors("base_model.model.{}.lora_{}.weight", "AB")
    | magnitudes("lora_magnitude_vector", "base_model.model.", column=False),
    "loha": of_each(loha),
    "lokr_aitoolkit": of_each(lokr),
    "lokr": of_each(lokr_factored),
    "glora": of_each(glora),
    "oft": of_each(oft),
    "boft": of_each(boft),
}
HEADERS = {
    "pat": header(alpha_pattern={"blocks.0.self_attn.q": 16}),
    "dora_peft": header(use_dora=True),
}


def lora_case(name: str, folder: Path) -> Path:
    """The file of a case: of the folder that `LIVEAVATAR_LORA_CASES` names, or made in `folder`."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given and (Path(given) / f"{name}.safetensors").is_file():
        return Path(given) / f"{name}.safetensors"
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in FILES[name].items()}, path, metadata=HEADERS.get(name))
    return path
