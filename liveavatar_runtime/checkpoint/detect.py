"""Which architecture a weight file holds: told by names and shapes, completed by a config, never by the file name."""

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..config import WAN_S2V_14B, AvatarConfig
from ..errors import CheckpointError, InputError, replaced
from ..reading import parse_json, read_json, readable
from ..texts import MISSING, OF_ANOTHER_SHAPE, UNEXPECTED, WITHOUT_VALUES, listing
from .quantised import is_quantisation_entry, weight_shapes
from .safetensors_io import INDEX_ENDING, Checkpoint
from .weights import is_folded

Shapes = dict[str, tuple[int, ...]]

SHARD_NAME = re.compile(r"-(?P<number>\d+)-of-(?P<count>\d+)(?=\.)")
"""Part of the names that Hugging Face's libraries give the files of a model in parts."""

HEAD_DIM = 128
"""Head size of every published Wan model; assumed when no config says otherwise."""

RIGHT_FILE = (
    "A Live Avatar model is Wan2.2-S2V-14B: the official folder, or one file such as "
    "wan2.2_s2v_14B_bf16.safetensors or wan2.2_s2v_14B_fp8_scaled.safetensors."
)
# Tensors that only this architecture has, together; the first is every Wan model's.
S2V_NAMES = (
    "head.modulation",
    "casual_audio_encoder.weights",
    "frame_packer.proj.weight",
    "trainable_cond_mask.weight",
)
# What sizes are taken from.
MEASURED = {
    "patch": "patch_embedding.weight",
    "patch bias": "patch_embedding.bias",
    "head": "head.head.weight",
    "ffn bias": "blocks.0.ffn.0.bias",
    "time": "time_embedding.0.weight",
    "text": "text_embedding.0.weight",
    "mix": "casual_audio_encoder.weights",
    "local": "casual_audio_encoder.encoder.conv1_local.conv.weight",
    "local bias": "casual_audio_encoder.encoder.conv1_local.conv.bias",
    "global bias": "casual_audio_encoder.encoder.conv1_global.conv.bias",
    "pose": "cond_encoder.weight",
}
AUDIO_KERNEL = 3
"""Width of the audio encoder's convolutions."""
# Measurements that an incomplete file gets wrong; `injectors` is none of the config's fields.
COUNTED = {"num_layers", "injectors"}

# (a part of a tensor name, what a file with such a name is), most specific first.
SIGNATURES = (
    (".lora_A.", "a LoRA, to be given as LoRA beside the model"),
    (".lora_down.", "a LoRA, to be given as LoRA beside the model"),
    ("casual_audio_encoder.", "a Wan2.2-S2V model, to be given as model"),
    ("decoder.upsamples.0.upsamples.", "the Wan 2.2 VAE"),
    ("decoder.middle.0.residual.", "the Wan 2.1 VAE, to be given as VAE"),
    ("encoder.block.0.layer.0.SelfAttention.", "a T5 text encoder, to be given as CLIP"),
    ("token_embedding.weight", "a T5 text encoder, to be given as CLIP"),
    ("text_model.encoder.layers.", "a CLIP text encoder"),
    ("feature_extractor.conv_layers.", "a wav2vec2 audio encoder, to be given as audio encoder"),
    ("model.encoder.embed_positions.", "a Whisper audio encoder"),
    ("audio_proj.audio_proj_glob_1.", "Wan HuMo"),
    ("face_adapter.fuser_blocks.", "Wan Animate"),
    ("vace_patch_embedding.", "Wan VACE"),
    ("img_emb.proj.", "Wan image-to-video"),
    ("head.modulation", "another Wan model (text-to-video or image-to-video) without the audio parts"),
    ("input_blocks.0.0.", "a Stable Diffusion UNet"),
    ("double_blocks.0.", "Flux or Hunyuan"),
    ("down_blocks.0.", "a Stable Diffusion model in diffusers names"),
    ("joint_blocks.0.", "Stable Diffusion 3"),
)


def detect_config(checkpoint: Checkpoint, declared: dict[str, Any] | None = None) -> AvatarConfig:
    """Architecture of a Wan2.2-S2V checkpoint (prefix already removed).

    `declared` is the content of a `config.json`; without it the "config" entry of the safetensors header is used, if
    there is one. It supplies what shapes cannot tell (num_heads, audio_inject_layers, text_len, eps); for files of
    the 14B model's width without either, that model's values apply.
    Raises CheckpointError for another architecture, for incomplete weights and when config and weights disagree.
    """
    with readable(checkpoint.path, "a Live Avatar model"):
        return _detected(checkpoint, declared)


def _detected(checkpoint: Checkpoint, declared: dict[str, Any] | None) -> AvatarConfig:
    shapes = weight_shapes(checkpoint)
    _refuse_shard(checkpoint.path, shapes)
    absent = [name for name in S2V_NAMES if name not in shapes]
    if 0 < len(absent) < len(S2V_NAMES) and absent != list(S2V_NAMES[1:]):
        raise CheckpointError(f"{checkpoint.path} is incomplete: {listing(MISSING, absent)}. {RIGHT_FILE}")
    if absent:
        raise CheckpointError(
            f"{checkpoint.path} is not a Live Avatar model: it looks like {describe_contents(shapes)}. {RIGHT_FILE}"
        )
    declared = header_config(checkpoint) if declared is None else declared
    measured = _measure(checkpoint.path, shapes)
    assumed = _assumed(checkpoint.path, measured, declared)
    sizes = {key: value for key, value in measured.items() if key not in COUNTED}
    compared = dict(sizes)
    layers = {**assumed, **declared}["num_layers"]
    # Before a model is built of so many: fewer may be missing from the file, which is told by name.
    if not isinstance(layers, int) or layers > 2 * max(1, measured["num_layers"]):
        compared["num_layers"] = measured["num_layers"]
    conflicts = [
        f"{key} is {_plain(declared[key])!r} in the config and {_plain(value)} in the weights"
        for key, value in compared.items()
        if key in declared and _plain(declared[key]) != _plain(value)
    ]
    if conflicts:
        raise CheckpointError(
            f"{checkpoint.path} and its config do not belong together: {'; '.join(conflicts)}. "
            "Use the config.json of this model's own folder, or none."
        )
    with replaced(InputError, lambda error: CheckpointError(f"{checkpoint.path}: {error}")):
        config = AvatarConfig.from_dict({**assumed, **declared, **sizes})
    check_names(checkpoint.path, shapes, expected_shapes(config))
    return config


def _refuse_shard(path: Path, shapes: Shapes) -> None:
    """Raises CheckpointError for one file of several that together are a model."""
    part = shard_number(path)
    landmarks = [*S2V_NAMES, *MEASURED.values()]
    if part is None or all(name in shapes for name in landmarks):
        return
    number, count, index = part
    raise CheckpointError(
        f"{path} is file {number} of {count} of a model that is stored in parts; it alone has {len(shapes)} of the "
        f"model's tensors. Give the folder that holds all {count} files and {index}: in ComfyUI put it into "
        f"models/liveavatar, as models/liveavatar/NAME/ with the model's config.json, and choose NAME/ as model."
    )


def shard_number(path: Path) -> tuple[int, int, str] | None:
    """Which file of how many this is, from 1, and the name of their index; None for a file that is whole."""
    for index in sorted(path.parent.glob(f"*{INDEX_ENDING}")) if path.is_file() else ():
        files = _files_of(index)
        if path.name in files and len(files) > 1:
            return files.index(path.name) + 1, len(files), index.name
    named = SHARD_NAME.search(path.name)
    if named is None or int(named["count"]) < 2:
        return None
    return int(named["number"]), int(named["count"]), f"{path.name[: named.start()]}{path.suffix}{INDEX_ENDING}"


def _files_of(index: Path) -> list[str]:
    """The files that an index names, sorted; none for one that is unreadable, as it may be of some other model."""
    named = None
    with suppress(CheckpointError):
        named = read_json(index).get("weight_map")
    return sorted({file for file in named.values() if isinstance(file, str)} if isinstance(named, dict) else ())


def header_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The "transformer" table of the safetensors header's "config" entry, as ComfyUI's core reads it; {} without."""
    no_json = f"{checkpoint.path}: the config in its header is not JSON"
    with replaced(ValueError, lambda error: CheckpointError(f"{no_json}: {error}")):
        config = parse_json(checkpoint.metadata.get("config", "{}"))
    table = config.get("transformer", {}) if isinstance(config, dict) else None
    if not isinstance(table, dict):
        raise CheckpointError(f"{checkpoint.path}: the config in its header is not an object with the model's sizes")
    return table


def config_beside(path: Path) -> dict[str, Any] | None:
    """Content of the `config.json` in the folder (or beside the file), None when there is none for an S2V model."""
    candidate = (path if path.is_dir() else path.parent) / "config.json"
    if not candidate.is_file():
        return None
    content = read_json(candidate)
    return content if content.get("model_type") == "s2v" else None


def expected_shapes(config: AvatarConfig) -> Shapes:
    """Every weight name and shape of the architecture."""
    from ..dit.model import CausalWanS2V

    model = CausalWanS2V(config, device=torch.device("meta"))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_names(path: Path, shapes: Shapes, expected: Shapes) -> None:
    """Raises CheckpointError unless the file has exactly the expected tensors; quantisation entries may be added.

    Shapes may be folded (see `is_folded`).
    """
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected and not is_quantisation_entry(name)]
    misshaped = [
        f"{name} is {list(shapes[name])}, not {list(expected[name])}"
        for name in expected
        if name in shapes and not is_folded(shapes[name], expected[name])
    ]
    problems = [
        listing(kind, names)
        for kind, names in ((MISSING, missing), (UNEXPECTED, unexpected), (OF_ANOTHER_SHAPE, misshaped))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the model: {'. '.join(problems)}. {RIGHT_FILE}")


def describe_contents(names: Iterable[str]) -> str:
    """What a weight file looks like, in words for a message."""
    names = list(names)
    for part, what in SIGNATURES:
        if any(part in name for name in names):
            return what
    if not names:
        return "an empty file"
    return f"an unknown model of {len(names)} tensors ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _measure(path: Path, shapes: Shapes) -> dict[str, Any]:
    """What the shapes tell; `injectors` is the number of audio injection layers, not which.

    Told by numbers of values wherever an axis could have been dropped or folded into its neighbour.
    """
    missing = [name for name in MEASURED.values() if name not in shapes]
    if missing:
        raise CheckpointError(f"{path} is incomplete: {listing(MISSING, missing)}. {RIGHT_FILE}")
    size = {key: math.prod(shapes[name]) for key, name in MEASURED.items()}
    empty = [MEASURED[key] for key, count in size.items() if not count]
    if empty:
        raise CheckpointError(f"{path} is incomplete: {listing(WITHOUT_VALUES, empty)}. {RIGHT_FILE}")
    dim, local = size["patch bias"], size["local bias"]
    stored, kernel = shapes[MEASURED["patch"]], shapes[MEASURED["local"]]
    patch_size = stored[2:] if len(stored) == 5 else WAN_S2V_14B.patch_size
    patch = dim * math.prod(patch_size)
    return {
        "dim": dim,
        "in_dim": size["patch"] // patch,
        "patch_size": patch_size,
        "out_dim": size["head"] // patch,
        "ffn_dim": size["ffn bias"],
        "freq_dim": size["time"] // dim,
        "text_dim": size["text"] // dim,
        "audio_layers": size["mix"],
        "audio_dim": size["local"] // local // (kernel[-1] if len(kernel) == 3 else AUDIO_KERNEL),
        "num_audio_token": local // size["global bias"],
        "cond_dim": size["pose"] // patch,
        "num_layers": _count(shapes, "blocks."),
        "injectors": _count(shapes, "audio_injector.injector."),
    }


def _assumed(path: Path, measured: dict[str, Any], declared: dict[str, Any]) -> dict[str, Any]:
    """Values for what neither shapes nor config tell.

    Layers may be missing from an incomplete file, so their number is first the config's, then that of the 14B model
    for files of its width, and only then what the file has.
    """
    assumed: dict[str, Any] = {
        "num_heads": max(1, measured["dim"] // HEAD_DIM),
        "num_layers": measured["num_layers"],
    }
    if measured["dim"] == WAN_S2V_14B.dim:
        assumed["num_layers"] = WAN_S2V_14B.num_layers
        assumed["audio_inject_layers"] = WAN_S2V_14B.audio_inject_layers
    layers = declared.get("audio_inject_layers", assumed.get("audio_inject_layers"))
    if not isinstance(layers, (list, tuple)):
        raise CheckpointError(
            f"{path} has {measured['num_layers']} layers and {measured['injectors']} audio injectors, but neither its "
            "names nor a config tell after which layers those sit. Put the model's config.json beside the file."
        )
    return assumed


def _count(shapes: Shapes, prefix: str) -> int:
    """Length of a numbered list of modules; a gap in it shows as missing tensors later.

    Of numbers beyond twice as many as there are the file is wrong, and no model of that length need be built to see it.
    """
    numbers = {
        int(name[len(prefix) :].split(".", 1)[0]) for name in shapes if re.match(rf"{prefix}[0-9]{{1,9}}\.", name)
    }
    return min(max(numbers, default=-1) + 1, 2 * len(numbers))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
