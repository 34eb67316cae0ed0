"""The demo's picture and voice for the templates, also where the input folder cannot be written."""

import importlib
import logging

import pytest


@pytest.fixture
def demo_inputs(pack, tmp_path, monkeypatch):
    """nodes/demo_inputs.py, with an input and a temporary folder of its own."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.demo_inputs")


def test_absent_files_are_put_there_and_others_stay(demo_inputs, tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "liveavatar_voice.wav").write_bytes(b"the user's")
    demo_inputs.provide_demo_inputs()
    found = {path.name: path.read_bytes() for path in (tmp_path / "input").iterdir()}
    ours = {
        name: (demo_inputs.PACK_ROOT / "demo" / file).read_bytes() for name, file in demo_inputs.DEMO_INPUTS.items()
    }
    assert len(ours) == 4 and found == {**ours, "liveavatar_voice.wav": b"the user's"}


def test_a_folder_that_cannot_be_written_stops_nothing(demo_inputs, tmp_path, caplog):
    # A file in the place of the folder: permissions do not stop the root user of containers.
    (tmp_path / "input").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "LiveAvatar"):
        demo_inputs.provide_demo_inputs()
    assert caplog.text.count("cannot be put there") == len(demo_inputs.DEMO_INPUTS)
    request = {"prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "liveavatar_portrait.png"}}}}
    assert demo_inputs.with_demo_inputs(request)["prompt"]["1"]["inputs"]["image"] == "liveavatar_portrait.png [temp]"
    assert (tmp_path / "temp" / "liveavatar_portrait.png").is_file()


@pytest.mark.parametrize(
    "request_", [{}, {"prompt": None}, {"prompt": {"1": None, "2": {"inputs": {"image": ["1", 0]}}}}]
)
def test_requests_that_name_none_stay_as_they_are(demo_inputs, request_):
    assert demo_inputs.with_demo_inputs(request_) == request_
