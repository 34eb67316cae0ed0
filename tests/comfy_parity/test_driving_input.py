"""What is connected to pose_video: its key, what is said of it, what is refused."""

import importlib
import shutil
from fractions import Fraction
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import pytest
import torch

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.sampling.plan import ClipPlan

PLAN = ClipPlan(num_clip=2, infer_frames=24, width=64, height=64, keep_aspect=False)
"""3 s."""
PICTURES = torch.rand(16, 32, 32, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def bridge(pack: ModuleType) -> Any:
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.driving_video")


@pytest.fixture
def read(bridge, pack, tmp_path, monkeypatch):
    """read(what is connected, pose_end) -> key and notes."""
    folders = importlib.import_module(f"{pack.__name__}.comfy_bridge.folders")
    monkeypatch.setattr(folders, "hashes_folder", lambda: tmp_path / "hashes")
    notes_of = importlib.import_module(f"{pack.__name__}.comfy_bridge.notes").Notes

    def call(given: object, end: str = "hold") -> tuple[str, list[str]]:
        notes = notes_of()
        video = bridge.read_driving_video(bridge.PoseInput(given, end), PLAN, notes)
        return video.key, notes.lines

    return call


@pytest.fixture
def videos(comfy, tmp_path) -> Any:
    from comfy_api.latest import InputImpl

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=16)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgr0"
        for picture in PICTURES:
            pixels = picture.mul(255).byte().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return SimpleNamespace(path=path, of=InputImpl.VideoFromFile, components=InputImpl.VideoFromComponents)


def test_the_key_is_of_what_is_shown(read, videos, tmp_path):
    shutil.copyfile(videos.path, tmp_path / "copy.mkv")
    changed = PICTURES.clone()
    changed[7, 3, 3, 0] += 0.1
    key, _ = read(videos.of(str(videos.path)))
    assert read(videos.of(str(tmp_path / "copy.mkv")))[0] == key
    part = videos.of(str(videos.path), start_time=0.25, duration=0.5)
    others = [read(given)[0] for given in (part, PICTURES, changed)]
    assert len({key, read(videos.of(str(videos.path)), "loop")[0], *others}) == 5


def test_the_notes_say_what_drives_which_part(read, videos):
    assert read(videos.of(str(videos.path)))[1] == [
        "⚠ pose_video ends before the video: from 0:01 on its last picture stays (hold).",
        "pose_video: 32x32, 1 s at 16 frames a second",
    ]
    _, looped = read(PICTURES, "loop")
    assert "pose_video is shorter than the video: it begins again at 0:01 (loop)" in looped
    _, longer = read(PICTURES.repeat(6, 1, 1, 1))
    assert longer == [
        "pose_video: 96 pictures, one for each frame",
        "pose_video is longer than the video: what comes after 0:03 is not used",
    ]
    _, transparent = read(torch.ones(48, 32, 32, 4))
    assert transparent[0] == "⚠ pose_video is transparent in parts; black is laid behind them."


def test_videos_in_memory_have_a_rate_and_others_are_refused(read, videos):
    from comfy_api.latest import Types

    parts = Types.VideoComponents(images=PICTURES, frame_rate=Fraction(8), audio=None)
    assert "pose_video: 16 pictures at 8 frames a second" in read(videos.components(parts))[1]
    with pytest.raises(InputError, match="0 frames a second"):
        read(videos.components(Types.VideoComponents(images=PICTURES, frame_rate=Fraction(0), audio=None)))
    with pytest.raises(InputError, match="pose_video is a dict; allowed are a VIDEO"):
        read({"waveform": PICTURES})


def test_weights_that_do_nothing_are_told(bridge):
    encoder = torch.nn.Conv3d(16, 8, 1)
    transformer = torch.nn.Module()
    transformer.cond_encoder = encoder
    model = SimpleNamespace(loaded=True, patcher=SimpleNamespace(get_model_object=lambda name: transformer))
    assert bridge.check_pose_encoder(model) == ""
    torch.nn.init.zeros_(encoder.weight)
    assert "are all 0" in bridge.check_pose_encoder(model)
    assert bridge.check_pose_encoder(SimpleNamespace(loaded=None)) == ""
