"""GGUF files written by the gguf package: every type it can write, odd shapes, prefixes, damage."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.gguf_io import open_gguf
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.errors import CheckpointError

BUNDLE = find_bundle(Path(__file__).parents[2] / "demo" / "liveavatar-demo")
BLOCK = 256
"""Values of one block of the K types."""


def write(path: Path, tensors: dict[str, tuple[np.ndarray, Kind | None]], **texts: str) -> Path:
    """Tensors with the type they are stored in; None for that of the array itself."""
    writer = gguf.GGUFWriter(path, "wan")
    for key, text in texts.items():
        writer.add_string(key, text)
    for name, (values, kind) in tensors.items():
        if values.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(size) for size in values.shape])
            values = values.reshape(values.shape[0], -1)
        if kind is None:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


# Largest error over the largest value of a block.
ERRORS = {Kind.F16: 1e-3, Kind.BF16: 4e-3, Kind.Q8_0: 4e-3, Kind.Q5_1: 0.04, Kind.Q5_0: 0.07, Kind.Q4_0: 0.13}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.name)
def test_types_that_the_package_writes(tmp_path, kind):
    values = noise(6, 64)
    tensors, _ = open_gguf(write(tmp_path / "model.gguf", {"a.weight": (values, kind)}))
    assert tensors.kinds == [kind.name] and tensors.shapes == {"a.weight": (6, 64)}
    unpacked = tensors["a.weight"]
    assert unpacked.dtype == {Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}.get(kind, torch.float32)
    assert (unpacked.float() - torch.from_numpy(values)).abs().max() <= ERRORS[kind] * np.abs(values).max()


@pytest.mark.parametrize(
    "kind", [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_XS], ids=lambda k: k.name
)
def test_k_types_unpack_as_the_package_does(tmp_path, kind):
    """The package cannot write these; blocks are drawn, with scales that are numbers."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    stored = np.random.default_rng(1).integers(0, 60, size=(4, 2 * size), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "wan")
    writer.add_tensor("a.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors, _ = open_gguf(tmp_path / "model.gguf")
    assert tensors.shapes == {"a.weight": (4, 2 * BLOCK)}
    expected = torch.from_numpy(gguf.dequantize(stored, kind))
    assert expected.isfinite().all() and expected.std() > 0
    assert torch.equal(tensors["a.weight"], expected)


def test_weights_of_five_axes_texts_and_a_prefix(tmp_path):
    """GGUF has four axes: converters note the shape of 3D convolutions beside them."""
    kernel = noise(4, 3, 1, 2, 2)
    file = write(tmp_path / "model.gguf", {"model.diffusion_model.patch.weight": (kernel, None)}, config="{}")
    checkpoint = open_checkpoint(file)
    assert checkpoint.shapes == {"patch.weight": (4, 3, 1, 2, 2)}
    assert torch.equal(checkpoint.tensors["patch.weight"], torch.from_numpy(kernel))
    assert checkpoint.metadata["config"] == "{}" and checkpoint.metadata["general.architecture"] == "wan"


def demo_file(path: Path, kind: Kind) -> Path:
    """The demo model as converters write it: layers quantised, the rest in float32, config in the metadata."""
    source = open_checkpoint(BUNDLE.model)
    tensors = {}
    for name, tensor in source.tensors.items():
        layer = name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2
        tensors[name] = (tensor.float().numpy(), kind if layer else None)
    return write(path, tensors, config=source.metadata["config"])


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8_0, Kind.Q5_0], ids=lambda kind: kind.name)
def test_the_transformer_of_a_gguf_file(tmp_path, kind):
    model = load_transformer(demo_file(tmp_path / "model.gguf", kind))
    expected = load_transformer(BUNDLE.model)
    assert model.config == expected.config
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.bfloat16
        original = expected.state_dict()[name].float()
        assert (weight.float() - original).abs().max() <= (ERRORS[kind] + 4e-3) * original.abs().max(), name


def test_a_gguf_file_of_another_model_is_named(tmp_path):
    file = write(tmp_path / "flux.gguf", {"double_blocks.0.img_attn.qkv.weight": (noise(4, 32), Kind.Q8_0)})
    with pytest.raises(CheckpointError, match=r"flux\.gguf is not a Live Avatar model: it looks like Flux"):
        load_transformer(file)


def test_a_type_that_cannot_be_unpacked(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "wan")
    stored = np.zeros((2, gguf.GGML_QUANT_SIZES[Kind.Q8_K][1]), dtype=np.uint8)
    writer.add_tensor("a.weight", stored, raw_dtype=Kind.Q8_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"holds Q8_K tensors.*Use a Q8_0"):
        open_gguf(tmp_path / "model.gguf")


def test_truncated_at_many_places(tmp_path):
    whole = write(tmp_path / "whole.gguf", {"a.weight": (noise(6, 64), Kind.Q8_0)}, config="{}").read_bytes()
    for kept in (*range(0, len(whole) - 64, 37), len(whole) - 64):
        part = tmp_path / "part.gguf"
        part.write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match="Download or copy the file again"):
            open_gguf(part)


def test_another_format_under_the_name(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes((BUNDLE.folder / "diffusion_pytorch_model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="does not start as a GGUF file does"):
        load_transformer(path)
