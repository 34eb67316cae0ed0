"""Names in wrappers, files of models in parts, folded shapes: what programs do to a model's file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file, save_file
from test_gguf import write

from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.detect import config_beside, detect_config
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.checkpoint.weights import is_folded
from liveavatar_runtime.config import DEMO, AvatarConfig
from liveavatar_runtime.errors import CheckpointError, InputError

BUNDLE = find_bundle(Path(__file__).parents[2] / "demo" / "liveavatar-demo")
STATE = load_file(BUNDLE.folder / "diffusion_pytorch_model.safetensors")
HEADER = {"config": json.dumps({"transformer": DEMO.to_dict()})}
WRAPPERS = (
    "module.", "_orig_mod.", "model.", "transformer.", "module._orig_mod.", "model.diffusion_model._orig_mod.",
    "net.some_wrapper.dit.", "model.diffusion_model.", "diffusion_model.",
)  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_any_wrapper_in_front_is_found(tmp_path, wrapper):
    file = tmp_path / "model.safetensors"
    beside = {"first_stage_model.conv1.weight": torch.ones(1), "step": torch.ones(1)}
    save_file({**{wrapper + name: tensor for name, tensor in STATE.items()}, **beside}, file, HEADER)
    model = load_transformer(file)
    assert all(torch.equal(weight, STATE[name]) for name, weight in model.state_dict().items())


def test_wrappers_around_single_layers(tmp_path):
    """`torch.compile` and FSDP of each block, and a header that notes formats under the wrapped names."""
    wrapped = {re.sub(r"^(blocks\.\d+)\.", r"\1._orig_mod.", name): tensor for name, tensor in STATE.items()}
    layer = "blocks.1._orig_mod.self_attn.q"
    stored = wrapped[f"{layer}.weight"].to(torch.float8_e4m3fn)
    scaled = {f"{layer}.weight": stored, f"{layer}.weight_scale": torch.tensor(2.0)}
    note = {"_quantization_metadata": json.dumps({"layers": {f"module.{layer}": {"format": "float8_e4m3fn"}}})}
    entries = {f"module.{name}": tensor for name, tensor in {**wrapped, **scaled}.items()}
    save_file(entries, tmp_path / "model.safetensors", {**HEADER, **note})
    state = load_transformer(tmp_path / "model.safetensors").state_dict()
    assert state.keys() == STATE.keys()
    assert torch.equal(state["blocks.0.ffn.0.weight"], STATE["blocks.0.ffn.0.weight"])
    assert torch.equal(state["blocks.1.self_attn.q.weight"], 2 * stored.bfloat16())


def test_a_training_checkpoint_with_two_models_is_refused(tmp_path):
    twice = {f"{part}.{name}": tensor.clone() for part in ("student", "ema") for name, tensor in STATE.items()}
    save_file(twice, tmp_path / "model.safetensors", HEADER)
    with pytest.raises(
        CheckpointError, match=r"holds the model 2 times, under the names ema\.\*, student\.\*. Keep one"
    ):
        open_checkpoint(tmp_path / "model.safetensors")


SHARD = "diffusion_pytorch_model-0000{}-of-00003.safetensors"


def make_shards(folder: Path) -> dict[str, str]:
    names = sorted(STATE)
    third = len(names) // 3 + 1
    where = {}
    for number in range(3):
        part = names[number * third : (number + 1) * third]
        save_file({name: STATE[name] for name in part}, folder / SHARD.format(number + 1), HEADER)
        where |= dict.fromkeys(part, SHARD.format(number + 1))
    return where


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("indexed", [True, False])
def test_one_file_of_a_model_in_parts(tmp_path, number, indexed):
    """Told by the index beside it, whatever its name, or by the name that such files have."""
    where = make_shards(tmp_path)
    file = tmp_path / SHARD.format(number)
    if indexed:
        (tmp_path / "my.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    index = "my.safetensors.index.json" if indexed else "diffusion_pytorch_model.safetensors.index.json"
    with pytest.raises(CheckpointError) as told:
        load_transformer(file)
    text = str(told.value)
    assert f"{file} is file {number} of 3 of a model that is stored in parts" in text
    assert f"Give the folder that holds all 3 files and {index}" in text and "choose NAME/ as model" in text


def test_the_name_of_a_part_does_not_matter_for_a_whole_file(tmp_path):
    save_file(STATE, tmp_path / SHARD.format(1), HEADER)
    assert load_transformer(tmp_path / SHARD.format(1)).config == DEMO


def folded(values: np.ndarray) -> np.ndarray:
    """As programs in C++ write shapes: axes of one value dropped at both ends, four axes at most."""
    shape = list(values.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4:
        shape = [shape[0] * shape[1], *shape[2:]]
    return values.reshape(shape)


@pytest.mark.parametrize("kind", [None, Kind.Q8_0], ids=["F32", "Q8_0"])
def test_gguf_files_with_folded_shapes(tmp_path, kind):
    tensors = {}
    for name, tensor in STATE.items():
        values = folded(tensor.float().numpy())
        tensors[name] = (values, kind if name.startswith("blocks.") and values.ndim == 2 and "weight" in name else None)
    shapes = {name: list(values.shape) for name, (values, _) in tensors.items()}
    assert shapes["casual_audio_encoder.weights"] == [25] and shapes["patch_embedding.weight"] == [2048, 1, 2, 2]
    file = write(tmp_path / "model.gguf", tensors, config=HEADER["config"])
    model = load_transformer(file, dtype=torch.float32)
    for name, weight in model.state_dict().items():
        assert weight.shape == STATE[name].shape
        if tensors[name][1] is None:
            assert torch.equal(weight, STATE[name].float()), name


@pytest.mark.parametrize(
    ("stored", "wanted", "fits"),
    [
        ((25,), (1, 25, 1, 1), True),
        ((2048, 1, 2, 2), (128, 16, 1, 2, 2), True),
        ((2, 128), (1, 2, 128), True),
        ((128, 64), (128, 64), True),
        ((256, 128), (128, 256), False),
        ((16, 128, 1, 2, 2), (128, 16, 1, 2, 2), False),
        ((24,), (1, 25, 1, 1), False),
        ((1, 25, 1, 1), (25,), True),
        ((128, 16), (2048,), False),
    ],
)
def test_a_shape_is_folded_only_where_the_order_of_values_stays(stored, wanted, fits):
    assert is_folded(stored, wanted) == fits


@pytest.mark.parametrize(
    ("given", "expected"), [(73, (73, 19)), (5, (5, 2)), ([73, 19], (73, 19)), (None, (73, 19))], ids=str
)
def test_motion_frames_of_a_config(tmp_path, given, expected):
    """Programs of Wan2.2-S2V write the video frames alone; the latent frames follow from them."""
    config = {key: value for key, value in DEMO.to_dict().items() if key != "motion_frames"}
    if given is not None:
        config["motion_frames"] = given
    assert AvatarConfig.from_dict(config).motion_frames == expected
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(STATE, tmp_path / "diffusion_pytorch_model.safetensors")
    assert detect_config(open_checkpoint(tmp_path), config_beside(tmp_path)).motion_frames == expected


@pytest.mark.parametrize("given", [0, -3, "73", [73], [73, 19, 1], 7.5, True], ids=str)
def test_other_motion_frames_are_refused(given):
    with pytest.raises(
        InputError, match=r"motion_frames is .*; it must be a number of video frames \(73\), or \[73, 19\]"
    ):
        AvatarConfig.from_dict({**DEMO.to_dict(), "motion_frames": given})
