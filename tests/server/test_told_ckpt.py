"""What users read about weight files: kind -> words, on the loader, through the real server."""

import shutil
from collections.abc import Callable

import pytest
import torch
from comfy_server import ROOT, ComfyServer
from prompt_builder import PromptBuilder
from safetensors.torch import save_file
from told_cases import SMALL, Told, check_told

from liveavatar_runtime.checkpoint.safetensors_io import Checkpoint, open_checkpoint

SOURCE = ROOT / "demo" / "liveavatar-demo" / "diffusion_pytorch_model.safetensors"
LOADER = "LiveAvatar_LoadAvatarModel"
E4M3 = torch.float8_e4m3fn
State = dict[str, torch.Tensor]
WEIGHT = "blocks.0.self_attn.q.weight"
DECODE = "LiveAvatar_OnlineVAEDecode"
NOT_KEPT = r"not numbers .* in clip 1; nothing of this clip is kept\. "


def scaled_by_row(state: State) -> State:
    layers = [name for name, weight in state.items() if name.startswith("blocks.") and weight.ndim == 2]
    for name in [name for name in layers if name.endswith(".weight")]:
        scale = state[name].float().abs().amax(dim=1, keepdim=True) / torch.finfo(E4M3).max
        state |= {name: (state[name].float() / scale).to(E4M3), f"{name}_scale": scale}
    return state


def with_a_stray_scale(state: State) -> State:
    return {**state, "blocks.9.self_attn.q.scale_weight": torch.tensor(0.5)}


def without_a_scale(state: State) -> State:
    return {**state, "blocks.0.self_attn.q.weight": state["blocks.0.self_attn.q.weight"].to(torch.int8)}


def half(state: State) -> State:
    return dict(list(state.items())[: len(state) // 2])


def with_a_broken_weight(state: State) -> State:
    return {**state, WEIGHT: state[WEIGHT].index_fill(0, torch.tensor(3), float("nan"))}


def with_a_weight_beyond_fp16(state: State) -> State:
    return {**state, WEIGHT: state[WEIGHT].index_fill(0, torch.tensor(3), 1e5)}


FILES: dict[str, Callable[[State], State]] = {
    "told-rows.safetensors": scaled_by_row,
    "told-stray.safetensors": with_a_stray_scale,
    "told-scaleless.safetensors": without_a_scale,
    "told-00002-of-00004.safetensors": half,
    "told-broken.safetensors": with_a_broken_weight,
    "told-large.safetensors": with_a_weight_beyond_fp16,
}


def model(name: str, precision: str = "auto", lora: str = "none") -> Callable[[PromptBuilder], None]:
    """The transformer from a file of its own; text encoder, VAE and audio encoder stay the bundle's."""

    def build(prompt: PromptBuilder) -> None:
        prompt.add("single", LOADER, model=name, lora=lora, lora_strength=1.0, precision=precision)
        prompt.set("LiveAvatar_DiTSampler", model=["single", 0])

    return build


CASES = [
    Told(
        "fp8 with a scale for each row",
        "single",
        r"told-rows\.safetensors: ComfyUI does not compute with 40 fp8 layers.*a scale for each row.*unpacked to bf16",
        model("told-rows.safetensors"),
    ),
    Told(
        "a scale without its weight",
        "single",
        r"blocks\.9\.self_attn\.q\.scale_weight belongs to the weight .*which the file does not have.*noise",
        model("told-stray.safetensors"),
        refused=True,
    ),
    Told(
        "a quantised weight without its scale",
        "single",
        r"blocks\.0\.self_attn\.q\.weight is int8, but nothing in the file is its scale",
        model("told-scaleless.safetensors"),
        refused=True,
    ),
    Told(
        "a weight that is not a number",
        "single",
        r"told-broken\.safetensors holds values that are not numbers .*in blocks\.0\.self_attn\.q\.weight "
        r"\(128 of 16,384\).*get it again",
        model("told-broken.safetensors"),
        refused=True,
    ),
    Told(
        "a weight that precision has no room for",
        DECODE,
        NOT_KEPT
        + r"The number format is too small: 128 of its 16,384 .*q\.weight became infinite in float16\. Set precision",
        model("told-large.safetensors", "fp16"),
        refused=True,
    ),
    Told(
        "a LoRA that is too strong",
        DECODE,
        NOT_KEPT + r"A LoRA makes the weight blocks\.0\.self_attn\.q\.weight so, .*lower its strength",
        model("told-large.safetensors", "fp32", "told-strong.safetensors"),
        refused=True,
    ),
    Told(
        "a bundle whose tokenizer is a link to nothing",
        "single",
        r"told-linked/umt5/spiece\.model is a link to gone, which is not there; put the file itself there",
        model("told-linked/"),
        refused=True,
    ),
    Told(
        "a LoRA that is a link to nothing",
        "single",
        r"told-linked\.safetensors is no file in .*loras.*a link whose target is not there",
        model("told-rows.safetensors", lora="told-linked.safetensors"),
        refused=True,
    ),
    Told(
        "one file of a model in parts",
        "single",
        r"told-00002-of-00004\.safetensors is file 2 of 4 of a model.*Give the folder.*models/liveavatar",
        model("told-00002-of-00004.safetensors"),
        refused=True,
    ),
]


@pytest.fixture(scope="module")
def files(server: ComfyServer) -> None:
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    source: Checkpoint = open_checkpoint(SOURCE)
    for name, change in FILES.items():
        save_file(change(dict(source.tensors)), folder / name, metadata=source.metadata)
    loras = server.base / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    # Finite factors, whose product is not.
    rows, columns = source.shapes[WEIGHT]
    factors = {"lora_A": torch.full((1, columns), 1e30), "lora_B": torch.full((rows, 1), 1e30)}
    module = WEIGHT.removesuffix(".weight")
    save_file(
        {f"{module}.{part}.weight": factor for part, factor in factors.items()}, loras / "told-strong.safetensors"
    )
    (loras / "told-linked.safetensors").symlink_to("gone")
    bundle = shutil.copytree(SOURCE.parent, server.base / "models" / "liveavatar" / "told-linked")
    (bundle / "umt5" / "spiece.model").unlink()
    (bundle / "umt5" / "spiece.model").symlink_to("gone")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_told(server, short_clip, files, case):
    check_told(case, server, short_clip(**{**SMALL, **case.plan}))
