"""What users read about patches on a connected MODEL, attention kernels, and settings that do not reach the model."""

import shutil
from pathlib import Path

import pytest
from told_cases import SMALL, Told, check_told

LOADER, SAMPLER = "LiveAvatar_LoadAvatarModel", "LiveAvatar_DiTSampler"
MODEL = "patched-demo.safetensors"


@pytest.fixture(scope="module", autouse=True)
def model_file(server) -> None:
    """The demo model where Load Diffusion Model finds it."""
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    bundle = Path(__file__).parents[2] / "demo" / "liveavatar-demo"
    shutil.copyfile(bundle / "diffusion_pytorch_model.safetensors", folder / MODEL)


def patched(*nodes: tuple[str, dict], alone: bool = True, **widgets):
    """The demo model through Load Diffusion Model and nodes of a class and inputs, into base_model; our widgets.

    `alone`: nothing but the loading.
    """

    def build(prompt) -> None:
        if alone:
            loader = prompt.id(LOADER)
            prompt.nodes = {loader: prompt.nodes[loader]}
            prompt.set(LOADER, model=MODEL)
            prompt.add("show", "PreviewAny", source=[loader, 0])
        prompt.add("base", "UNETLoader", unet_name=MODEL, weight_dtype="default")
        last = "base"
        for number, (class_type, inputs) in enumerate(nodes):
            prompt.add(f"patch{number}", class_type, model=[last, 0], **inputs)
            last = f"patch{number}"
        prompt.set(LOADER, base_model=[last, 0], **widgets)

    return build


STRENGTH = {"strength": 0.5}
SHIFT = ("ModelSamplingSD3", {"shift": 8.0})
COMPILED = ("TorchCompileModel", {"backend": "inductor"})
EASY_CACHE = ("EasyCache", {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False})
SKIPPED_LAYERS = (
    "SkipLayerGuidanceDiT",
    {
        "double_layers": "1",
        "single_layers": "1",
        "scale": 3.0,
        "start_percent": 0.01,
        "end_percent": 0.15,
        "rescaling_scale": 0.0,
    },
)
NAG = ("NAGuidance", {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5})
CASES = [
    Told(
        "a shift on the model",
        LOADER,
        "ModelSamplingSD3 has no effect here: set shift of Clip Scheduler",
        build=patched(SHIFT),
    ),
    Told(
        "a compiled model",
        LOADER,
        "TorchCompileModel has no effect here: switch on compile of DiT Sampler",
        build=patched(COMPILED),
    ),
    Told("EasyCache", LOADER, "EasyCache has no effect here: the model is made for 4 steps", build=patched(EASY_CACHE)),
    Told(
        "skipped layers as guidance",
        LOADER,
        "SkipLayerGuidanceDiT has no effect here: the model is sampled without guidance",
        build=patched(SKIPPED_LAYERS),
    ),
    Told("NAG of core", LOADER, "NAGuidance has no effect here: the model is sampled without", build=patched(NAG)),
    Told(
        "NAG of a pack", LOADER, "OddNag has no effect here: the model is sampled", build=patched(("OddNag", STRENGTH))
    ),
    Told(
        "TeaCache",
        LOADER,
        "TeaCache has no effect here: the model is made for 4 steps",
        build=patched(("OddTeaCache", STRENGTH)),
    ),
    Told(
        "patches of another kind of model",
        LOADER,
        "TomePatchModel has no effect here: it is made for models of another kind",
        build=patched(("TomePatchModel", {"ratio": 0.3})),
    ),
    Told(
        "a patch that nobody knows",
        LOADER,
        r"a patch \(transformer/wonder_strength\) has no effect here: the model runs in a block loop",
        build=patched(("OddUnknownPatch", STRENGTH)),
    ),
    Told(
        "precision beside a connected model",
        LOADER,
        "precision bf16 has no effect on base_model",
        build=patched(precision="bf16"),
    ),
    Told(
        "a kernel whose package is missing",
        SAMPLER,
        "'flash' needs the package flash_attn, which is not installed.*choose sdpa",
        build=lambda prompt: prompt.set(SAMPLER, attention="flash"),
        refused=True,
    ),
    Told(
        "a kernel that cannot run here",
        SAMPLER,
        "attention sage cannot run here: it needs a CUDA device .* the model runs on cpu.*PyTorch's",
        build=lambda prompt: prompt.set(SAMPLER, attention="sage"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_told(server, short_clip, case):
    check_told(case, server, short_clip(**{**SMALL, **case.plan}))


def test_patches_that_work_are_no_warning(server, short_clip):
    """The override changes the latents and is told on DiT Sampler as a fact; the dtype is the clone's only."""
    override = ("OddAttentionOverride", STRENGTH)
    notes = {}
    for name, nodes in (("half", [("ModelComputeDtype", {"dtype": "bf16"})]), ("plain", []), ("other", [override])):
        prompt = short_clip(**SMALL, seed=11)
        patched(*nodes, alone=False)(prompt)
        result = server.client.run(prompt.nodes)
        result.raise_for_error()
        assert result.previews(), "nothing was sampled"
        notes[name] = result.notes(prompt.id(LOADER)), result.notes(prompt.id(SAMPLER))
    assert [loader[0].split("computes in ")[1] for loader, _ in notes.values()] == ["bfloat16", "float32", "float32"]
    told = "The attention override of base_model is used; what it leaves is done by attention comfyui"
    assert told in notes["other"][1] and told not in notes["plain"][1]
    lines = [line for both in notes.values() for line in (*both[0], *both[1])]
    assert not any("⚠" in line and "base_model" in line for line in lines)
