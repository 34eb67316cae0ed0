"""What users read about LoRAs on Load Avatar Model: kind -> words, through the real server."""

from collections.abc import Callable, Iterator

import pytest
import torch
from comfy_server import ROOT, ComfyServer
from prompt_builder import PromptBuilder
from safetensors.torch import save_file
from told_cases import Told, check_told

LOADER = "LiveAvatar_LoadAvatarModel"
TRANSFORMER = ROOT / "demo" / "liveavatar-demo" / "diffusion_pytorch_model.safetensors"
PLAIN = "told-s2v.safetensors"
ATTENTIONS = [
    *(f"blocks.{block}.{kind}_attn" for block in range(4) for kind in ("self", "cross")),
    *(f"audio_injector.injector.{number}" for number in range(2)),
]
WHOLE = {
    **{f"{attention}.{leaf}": (128, 128) for attention in ATTENTIONS for leaf in "qkvo"},
    **{f"blocks.{block}.ffn.0": (256, 128) for block in range(4)},
    **{f"blocks.{block}.ffn.2": (128, 256) for block in range(4)},
}
"""The modules of the demo model that Live Avatar's LoRA would change."""
MISSING = r"poor pictures; choose told-whole\.safetensors in lora"


def low_rank(
    pattern: str, sides: str | tuple[str, str], modules: dict[str, tuple[int, int]]
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return {
        pattern.format(module, side): torch.randn(*shape, generator=generator) / 50
        for module, (out, into) in modules.items()
        for side, shape in zip(sides, ((4, into), (out, 4)), strict=True)
    }


def files() -> dict[str, dict[str, torch.Tensor]]:
    one, odd = {"blocks.0.self_attn.q": (128, 128)}, {"blocks.0.img_attn.q": (128, 128), "blocks.1.ffn.0": (64, 64)}
    kohya = low_rank("lora_unet_{}.lora_{}.weight", ("down", "up"), {"blocks_0_self_attn_q": (128, 128)})
    dora = low_rank("diffusion_model.{}.lora_{}.weight", "AB", one)
    return {
        "told-whole": low_rank("pipe.dit.{}.lora_{}.default.weight", "AB", WHOLE),
        "told-alpha": {**kohya, "lora_unet_blocks_0_self_attn_q.alpha": torch.tensor(2.0)},
        "told-part": low_rank("diffusion_model.{}.lora_{}.weight", "AB", {**one, **odd}),
        "told-other": low_rank("diffusion_model.{}.lora_{}.weight", "AB", odd),
        "told-dora": {**dora, "diffusion_model.blocks.0.self_attn.q.dora_scale": torch.ones(128, 1)},
    }


@pytest.fixture(scope="module", autouse=True)
def models(server: ComfyServer) -> Iterator[None]:
    """The demo transformer as a plain file, and LoRAs; taken away again, as other tests read the folders too."""
    folders = {name: server.base / "models" / name for name in ("diffusion_models", "loras")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    made = [folders["diffusion_models"] / PLAIN]
    made[0].write_bytes(TRANSFORMER.read_bytes())
    for name, tensors in files().items():
        made.append(folders["loras"] / f"{name}.safetensors")
        save_file(tensors, made[-1])
    yield
    for file in made:
        file.unlink()


def loads(base_model: str = "", bypass: bool = False, **widgets: object) -> Callable[[PromptBuilder], None]:
    """Only Load Avatar Model runs, with these widgets; `base_model` is a file for ComfyUI's own loader.

    `bypass` adds a LoRA to that in the way that leaves weights alone.
    """

    def build(prompt: PromptBuilder) -> None:
        loader = prompt.id(LOADER)
        prompt.nodes = {loader: prompt.nodes[loader]}
        prompt.add("look", "PreviewAny", source=[loader, 0])
        prompt.set(LOADER, **widgets)
        if base_model:
            prompt.add("own", "UNETLoader", unet_name=base_model, weight_dtype="default")
            prompt.set(LOADER, base_model=["own", 0])
        if bypass:
            lora = {"lora_name": "told-alpha.safetensors", "strength_model": 1.0}
            prompt.add("lora", "LoraLoaderBypassModelOnly", model=["own", 0], **lora)
            prompt.set(LOADER, base_model=["lora", 0])

    return build


CASES = [
    Told(
        "a LoRA that stores alpha",
        LOADER,
        r"told-alpha\.safetensors: strength 0\.5, scale 0\.5 \(alpha / rank\), 1 of 1 modules",
        loads(lora="told-alpha.safetensors", lora_strength=0.5),
    ),
    Told(
        "a LoRA of Live Avatar's modules without alpha, in another naming",
        LOADER,
        rf"told-whole\.safetensors: strength 1, scale 0\.5 \(no alpha.*modules\), {len(WHOLE)} of {len(WHOLE)} modules",
        loads(model=PLAIN, lora="told-whole.safetensors"),
    ),
    Told(
        "a LoRA that fits in part",
        LOADER,
        r"⚠ told-part\.safetensors is only partly applied: 1 of 3 modules\. Left out: \S+img_attn\.q \(not in this "
        r"model\); \S+blocks\.1\.ffn\.0 \(made for a 64x64 layer, the model's is 256x128\)",
        loads(lora="told-part.safetensors"),
    ),
    Told(
        "a LoRA that fits nothing",
        LOADER,
        r"told-other\.safetensors fits no layer of this model: none of its 2 modules.*such as liveavatar\.safetensors",
        loads(lora="told-other.safetensors"),
        refused=True,
    ),
    Told(
        "a LoRA that workers cannot merge",
        LOADER,
        r"told-dora\.safetensors holds DoRA changes \(\S+blocks\.0\.self_attn\.q\).*Choose executor local",
        loads(lora="told-dora.safetensors", executor="fsdp", devices="cpu,cpu"),
        refused=True,
    ),
    Told("a plain file without a LoRA", LOADER, rf"⚠ No LoRA is applied: .*{MISSING}", loads(model=PLAIN, lora="auto")),
    Told(
        "a plain file with another LoRA",
        LOADER,
        rf"⚠ None of the LoRAs applied is Live Avatar's distillation LoRA: .*{MISSING}",
        loads(model=PLAIN, lora="told-alpha.safetensors"),
    ),
    Told(
        "a connected MODEL without a LoRA",
        LOADER,
        rf"⚠ No LoRA is applied: .*{MISSING}",
        loads(base_model=PLAIN, model=PLAIN),
    ),
    Told(
        "a connected MODEL with a LoRA beside its layers",
        LOADER,
        r"^\S+ GiB, computes in",
        loads(PLAIN, bypass=True, model=PLAIN),
    ),
    Told("the demo bundle, which needs none", LOADER, r"^\S+ GiB, computes in", loads()),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_told(server, short_clip, case):
    check_told(case, server, short_clip())
