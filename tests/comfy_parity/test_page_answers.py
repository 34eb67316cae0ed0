"""What the page is told before a run is what the run will find: lengths of voices, the model to be loaded, sizes."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.planning.memory import cache_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan

SOUNDS = (
    ("a.wav", "pcm_s16le", "s16", "mono"),
    ("b.wav", "pcm_s16le", "s16", "stereo"),
    ("c.mp3", "mp3", "fltp", "stereo"),
    ("d.m4a", "aac", "fltp", "mono"),
    ("e.flac", "flac", "s16", "stereo"),
)
RATE = 44_100
SAMPLES = 51_234
DEMO = "liveavatar-demo/"


@pytest.fixture
def bridge(pack: ModuleType) -> Any:
    """Imports a module of the pack's comfy_bridge."""
    return lambda name: importlib.import_module(f"{pack.__name__}.comfy_bridge.{name}")


@pytest.fixture
def inputs(comfy: ModuleType, tmp_path: Path) -> Iterator[Path]:
    """ComfyUI's input folder, empty."""
    import folder_paths

    before = folder_paths.get_input_directory()
    (tmp_path / "input").mkdir()
    folder_paths.set_input_directory(str(tmp_path / "input"))
    yield tmp_path / "input"
    folder_paths.set_input_directory(before)


def write_sound(path: Path, codec: str, sample_format: str, layout: str) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.layout, stream.format = layout, sample_format
        channels = stream.channels
        wave = np.random.default_rng(0).normal(0, 0.1, (channels, SAMPLES))
        values = wave.astype(np.float32) if sample_format == "fltp" else (wave * 32767).astype(np.int16)
        packed = values if sample_format == "fltp" else np.ascontiguousarray(values.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(packed, format=sample_format, layout=layout)
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)


@pytest.mark.parametrize(("name", "codec", "sample_format", "layout"), SOUNDS)
def test_a_voice_is_as_long_as_load_audio_loads_it(bridge, inputs, name, codec, sample_format, layout):
    from comfy_extras.nodes_audio import load

    write_sound(inputs / name, codec, sample_format, layout)
    waveform, rate = load(str(inputs / name))
    answer = bridge("page_routes")._told(bridge("page_routes")._voice, {"name": f"{name} [input]"})
    assert answer == {"samples": waveform.shape[1], "sample_rate": rate}
    if name.endswith((".wav", ".flac")):
        assert answer["samples"] == SAMPLES


@pytest.mark.parametrize(
    "name", ["../secret.wav", "sub/../../secret.wav", "/etc/passwd", "", ".", "a\0b", "sub", "x.wav"]
)
def test_only_files_of_the_input_folder_are_read(bridge, inputs, name):
    write_sound(inputs.parent / "secret.wav", *SOUNDS[0][1:])
    (inputs / "sub").mkdir()
    answer = bridge("page_routes")._told(bridge("page_routes")._voice, {"name": name})
    assert set(answer) == {"error"}
    with pytest.raises(InputError):
        bridge("input_files").input_file(name)


def test_a_file_that_was_replaced_is_read_again(bridge, inputs):
    voice_length = bridge("input_files").voice_length
    write_sound(inputs / "a.wav", *SOUNDS[0][1:])
    assert voice_length("a.wav").samples == SAMPLES
    write_sound(inputs / "a.wav", *SOUNDS[1][1:])
    assert voice_length("a.wav").samples == SAMPLES
    (inputs / "a.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match="cannot be read"):
        voice_length("a.wav")


def test_a_picture_counts_as_it_is_shown(bridge, inputs):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (64, 48)).save(inputs / "turned.jpg", exif=turned)
    Image.new("RGB", (64, 48)).save(inputs / "plain.png")
    size = bridge("input_files").picture_size
    assert (size("turned.jpg"), size("plain.png")) == ((48, 64), (64, 48))


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16", "fp32", "fp8_e4m3fn"])
def test_the_model_is_the_one_that_will_be_loaded(bridge, core_model, precision):
    told = bridge("unloaded_model").unloaded_model(DEMO, precision)
    bundle = bridge("model_loading").ModelChoice(DEMO, [], precision, "auto", "auto", "", None).bundle()
    loaded = core_model.load_with_core(bundle.model, [], bridge("model_loading").PRECISIONS[precision])
    avatar = core_model.adopt(loaded)
    assert (told.config, told.dtype, told.made_for) == (avatar.config, avatar.dtype, bundle.video_size)
    # In fp8 core keeps 1.5 % of the demo's weights in a wider format, of the 14B model's far less.
    assert told.stored_bytes == pytest.approx(avatar.patcher.model_size(), rel=0.02)


def test_sizes_of_the_demo_and_of_an_unknown_model(bridge, inputs):
    Image.new("RGB", (900, 600)).save(inputs / "wide.png")
    ask = bridge("page_sizes").size_answer
    demo = ask({"plan": {"width": 64, "height": 64}, "model": {"model": DEMO}, "image": "wide.png"})
    assert (demo["model"], demo["device"], demo["rate"]) == (DEMO, "cpu", "unknown")
    assert demo["selected"]["fits"] and demo["selected"]["suits"] and demo["selected"]["time"] == 1
    assert demo["selected"]["cropped"] == pytest.approx(1 / 3)
    assert not demo["sizes"]["384x256"]["suits"] and demo["sizes"]["384x256"]["cropped"] == 0
    assert demo["sizes"]["384x256"]["time"] > demo["selected"]["time"]
    two = ask({"model": {"model": DEMO, "executor": "layer_pipeline", "devices": "cpu,cpu"}})
    assert len(two["selected"]["memory"]) == two["devices"] == 2
    assert ask({"model": {"model": DEMO, "workers": "mine"}})["selected"]["fits"] is None
    missing = ask({"model": {"model": "not-here.safetensors"}, "plan": {"size": "688x368"}})
    assumed = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))
    assert (missing["model"], missing["selected"]["caches"]) == ("", cache_bytes(assumed))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "no",
        '{"plan": 3}',
        '{"plan": {"width": "688"}}',
        '{"plan": {"width": 1}}',
        '{"plan": {"seed": 1}}',
        '{"plan": {"size": "1x1"}}',
        '{"model": {"model": "liveavatar-demo/", "executor": "none such"}}',
        '{"model": {"model": "liveavatar-demo/", "devices": "cuda:9"}}',
        '{"caches": {"kv_cache": 1}}',
        '{"caches": {"kv_cache": "disk"}}',
        " " * 70_000,
    ],
)
def test_every_question_has_an_answer_in_json(bridge, inputs, text):
    answer = bridge("page_routes")._told(bridge("page_routes")._sizes, {"text": text})
    assert ("sizes" in answer) == (text in ("", "{}")) == ("error" not in answer)
