"""Faces in drawn pictures: found, counted and measured. No photo of a person is part of this repository."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from demo.training.portraits import Pose, draw, draw_person
from liveavatar_runtime.media.faces import FaceCheck, check_faces, find_faces

PORTRAIT = Path(__file__).parents[2] / "demo" / "portrait.png"


def person(seed: int, size: int = 256, pose: Pose | None = None) -> np.ndarray:
    return draw(draw_person(seed), pose or Pose(), size)


def wall(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photo of nothing: soft spots of light, uint8 RGB, no two neighbours alike."""
    rng = np.random.default_rng(seed)
    spots = Image.fromarray(rng.integers(90, 170, (8, 8, 3), dtype=np.uint8)).resize((width, height), 3)
    return (np.asarray(spots) + rng.integers(-9, 10, (height, width, 1))).clip(0, 255).astype(np.uint8)


def on_wall(height: int, width: int, picture: np.ndarray, top: int, left: int) -> np.ndarray:
    whole = wall(height, width)
    whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return whole


def check(pixels: np.ndarray, height: int = 384, width: int = 384) -> FaceCheck:
    return check_faces(torch.tensor(pixels) / 255, height, width)


def test_the_demo_portrait_gives_no_alarm():
    """The first run that a user sees: 64x64 pixels."""
    pixels = np.asarray(Image.open(PORTRAIT).convert("RGB"))
    assert check(pixels, 64, 64) == FaceCheck() and len(find_faces(pixels).faces) == 1


def test_drawn_people_in_any_pose_give_no_alarm():
    rng = np.random.default_rng(0)
    for seed in range(4):
        pose = Pose(mouth=rng.random(), lift=rng.random(), turn=2 * rng.random() - 1)
        assert check(person(5_000_000 + seed, 256, pose), 64, 64) == FaceCheck(), seed


def test_the_face_is_where_it_was_drawn():
    ((face),) = find_faces(on_wall(600, 900, person(10_000_300, 200), 100, 500)).faces
    assert 500 < face.left + face.width / 2 < 700 and 100 < face.top + face.height / 2 < 300
    assert 60 < face.width < 200


def test_several_faces():
    (said,) = check(np.hstack([person(10_000_300), person(10_000_301)]), 320, 640).warnings
    assert said.startswith("2 faces were found in the picture, and")


def test_a_much_smaller_face_behind_does_not_count():
    pixels = np.hstack([person(10_000_300, 384), on_wall(384, 128, person(10_000_301, 96), 20, 16)])
    assert check(pixels).warnings == ()


def test_a_small_face():
    pixels = on_wall(800, 800, person(10_000_300, 120), 100, 300)
    (said,) = check(pixels).warnings
    assert said.startswith("The face is small: about ") and "in a video of 384x384" in said
    assert 25 < int(said.split("about ")[1].split()[0]) < 64
    assert check(pixels, 1024, 1024).warnings == (), "in a larger video it has pixels enough"


def test_a_face_that_is_cropped_away():
    pixels = on_wall(256, 1024, person(10_000_300), 0, 0)
    (said,) = check(pixels, 384, 384).warnings
    assert said.startswith("The face is cut off: a video of 384x384 shows the middle")
    assert check(pixels, 192, 768).warnings == ()


def test_no_face():
    (said,) = check(wall(400, 300)).warnings
    assert said.startswith("No face was found in the picture.")


def test_a_drawing_without_a_face_is_not_judged():
    """Cascades miss many drawn faces, so nothing is said of even surfaces."""
    assert check(np.full((256, 256, 3), 200, np.uint8)) == FaceCheck()


def test_opencv_without_cascades_is_said(monkeypatch):
    import cv2

    monkeypatch.delattr(cv2, "CascadeClassifier")
    checked = check(wall(400, 300))
    assert checked == FaceCheck((), checked.unchecked) and checked.unchecked
    assert f"not checked: OpenCV {cv2.__version__} has no face cascades; pip install" in checked.unchecked


def test_no_opencv_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "not checked: OpenCV cannot be imported" in (check(wall(400, 300)).unchecked or "")


def test_two_packages_of_opencv_are_said_with_the_way_out(monkeypatch, tmp_path):
    """Each overwrites the other's files, and removing one takes some of the other's away."""
    for name in ("opencv_python", "opencv_contrib_python_headless"):
        about = tmp_path / f"{name}-4.11.0.86.dist-info" / "METADATA"
        about.parent.mkdir()
        about.write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 4.11.0.86\n", "utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert (
        "opencv-contrib-python-headless, opencv-python are installed and bring the same module. Remove all of them, "
        "then install one: pip uninstall opencv-contrib-python-headless opencv-python, pip install"
    ) in (check(wall(400, 300)).unchecked or "")


def test_opencv_without_its_files_is_said(monkeypatch):
    monkeypatch.setattr("cv2.data.haarcascades", "/nowhere/")
    assert "came without its cascade files" in (check(wall(400, 300)).unchecked or "")


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures(channels):
    pixels = torch.from_numpy(person(10_000_300)).float() / 255
    picture = pixels.mean(dim=2, keepdim=True) if channels == 1 else torch.cat([pixels, torch.ones(256, 256, 1)], 2)
    assert check_faces(picture, 64, 64) == FaceCheck()
