"""Which file of a model folder is what, in the official layout and the demo's."""

import json
import os

import pytest

from liveavatar_runtime.checkpoint.bundle import find_bundle, is_bundle
from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.errors import CheckpointError

OFFICIAL = [
    "diffusion_pytorch_model-00001-of-00004.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "google/umt5-xxl/spiece.model",
    "google/umt5-xxl/tokenizer.json",
    "Wan2.1_VAE.pth",
    "wav2vec2-large-xlsr-53-english/model.safetensors",
    "wav2vec2-large-xlsr-53-english/config.json",
]


def make(folder, files, config=None):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_official_folder(tmp_path):
    bundle = find_bundle(make(tmp_path, OFFICIAL, WAN_S2V_14B.to_dict()))
    assert bundle.config == tmp_path / "config.json"
    assert bundle.model == tmp_path
    assert bundle.vae == tmp_path / "Wan2.1_VAE.pth"
    assert bundle.text_encoder == tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
    assert bundle.text_config is None
    assert bundle.tokenizer == tmp_path / "google/umt5-xxl/spiece.model"
    assert bundle.wav2vec2 == tmp_path / "wav2vec2-large-xlsr-53-english"
    assert bundle.lora is None


def test_only_the_transformer(tmp_path):
    bundle = find_bundle(make(tmp_path, OFFICIAL[:2], WAN_S2V_14B.to_dict()))
    parts = (bundle.vae, bundle.text_encoder, bundle.text_config, bundle.tokenizer, bundle.wav2vec2, bundle.lora)
    assert parts == (None,) * len(parts)


def test_lora_and_safetensors_vae(tmp_path):
    files = [*OFFICIAL, "liveavatar.safetensors", "Wan2.1_VAE.safetensors"]
    bundle = find_bundle(make(tmp_path, files, WAN_S2V_14B.to_dict()))
    assert bundle.lora == tmp_path / "liveavatar.safetensors"
    assert bundle.vae == tmp_path / "Wan2.1_VAE.safetensors"


@pytest.mark.parametrize(
    ("files", "config"),
    [([], None), (OFFICIAL, None), (OFFICIAL[2:], WAN_S2V_14B.to_dict())],
    ids=["empty", "no config", "no transformer"],
)
def test_folders_that_are_no_bundle(tmp_path, files, config):
    make(tmp_path, files, config)
    assert not is_bundle(tmp_path)
    with pytest.raises(CheckpointError, match="is not a Live Avatar model folder; it must hold config.json"):
        find_bundle(tmp_path)


def test_folder_of_another_model(tmp_path):
    make(tmp_path, OFFICIAL, {"model_type": "t2v"})
    with pytest.raises(CheckpointError, match="model_type s2v"):
        find_bundle(tmp_path)


def test_a_damaged_config_does_not_break_the_listing(tmp_path):
    make(tmp_path, OFFICIAL)
    (tmp_path / "config.json").write_text("{")
    assert is_bundle(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        find_bundle(tmp_path)


def test_files_and_absent_folders_are_no_bundle(tmp_path):
    assert not is_bundle(tmp_path / "absent")
    (tmp_path / "file").touch()
    assert not is_bundle(tmp_path / "file")


@pytest.mark.parametrize(
    "name", ["Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/spiece.model"], ids=str
)
@pytest.mark.not_on_windows
def test_a_part_that_is_no_file_is_not_left_out(tmp_path, name):
    """A bundle without its part is a bundle too, and then the error would come from some other node."""
    path = make(tmp_path, OFFICIAL, WAN_S2V_14B.to_dict()) / name
    path.unlink()
    places = (
        (path.mkdir, "is a folder"),
        (lambda: os.mkfifo(path), "is a pipe"),
        (lambda: path.symlink_to("gone"), "is a link to gone"),
    )
    for place, words in places:
        place()
        assert is_bundle(tmp_path)
        with pytest.raises(CheckpointError, match=f"{name} {words}"):
            find_bundle(tmp_path)
        path.rmdir() if words == "is a folder" else path.unlink()
