"""Where speakers are in a picture: masks of any size, faces of drawn people, parts; and which tokens they move."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from demo.training.portraits import Pose, draw, draw_person
from liveavatar_runtime.audio.conversation import Conversation, Speaker
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.media.areas import areas_by_faces, areas_by_masks
from liveavatar_runtime.media.areas_picture import draw_areas
from liveavatar_runtime.media.faces import check_faces
from liveavatar_runtime.sampling.actor_masks import check_picture, token_weights
from liveavatar_runtime.sampling.plan import ClipPlan

LEFT, RIGHT = (slice(None), slice(0, 40)), (slice(None), slice(60, 100))


def mask(*places: tuple[slice, slice], height: int = 60, width: int = 100) -> Tensor:
    made = torch.zeros(height, width)
    for place in places:
        made[place] = 1
    return made


def people(count: int, size: int = 192) -> Tensor:
    """A row of drawn people, [H, W, 3] of 0..1."""
    row = np.hstack([draw(draw_person(10_000_300 + n), Pose(), size) for n in range(count)])
    return torch.from_numpy(row).float() / 255


def conversation(masks: Tensor, margin: float = 0.0) -> Conversation:
    voice = AvatarAudio(torch.zeros(1, 2, 50, 4), torch.zeros(1, 16000), 16000)
    return Conversation((Speaker(voice),) * len(masks), masks, voice.waveform, 16000, torch.zeros(2, 4), margin)


def plan(width: int = 160, height: int = 96) -> ClipPlan:
    return ClipPlan(num_clip=1, fps=Fraction(25), width=width, height=height, keep_aspect=False, seed=1)


# --- masks ---


def test_masks_of_any_size_are_brought_to_the_picture() -> None:
    small = torch.nn.functional.interpolate(mask(RIGHT)[None, None], (30, 50))[0]
    areas = areas_by_masks({1: mask(LEFT)[None], 2: small}, torch.zeros(60, 100, 3))
    assert torch.equal(areas.masks, torch.stack([mask(LEFT), mask(RIGHT)])) and areas.warnings == ()
    assert torch.equal(areas_by_masks({1: mask(LEFT), 2: small}, None).masks, areas.masks), "the largest one's size"


def test_what_is_odd_about_masks_is_told() -> None:
    both = areas_by_masks({1: mask((slice(None), slice(0, 50))), 2: mask((slice(None), slice(45, 95)))}, None)
    assert both.warnings == ("mask_1 and mask_2 share 10 % of the smaller one: neither voice moves what is there.",)
    batch = areas_by_masks({1: torch.stack([mask(LEFT)] * 3), 2: mask(RIGHT)}, None)
    assert batch.warnings == ("mask_1 is a batch of 3 masks; the first one is used.",)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (torch.zeros(1, 60, 100), r"mask_2 is empty \(100x60"),
        (mask(LEFT), r"mask_1 and mask_2 are the same, or one of them lies in the other \(100 %"),
        (torch.ones(60, 100), "one of them lies in the other"),
        (torch.full((60, 100), float("nan")), "mask_2 has values that are not numbers"),
        (torch.ones(60, 100, 3, 1), r"mask_2 is \(60, 100, 3, 1\); a mask is"),
        ("a mask", "mask_2 is str; a mask is"),
        (torch.eye(600, 1000), "mask_2 is too thin: nothing of it is left at the picture's size of 100x60"),
        (torch.ones(64, 64), r"mask_2 is 64x64 and the picture is 100x60: it is not of this picture"),
    ],
)
def test_masks_that_are_of_no_use_are_refused(wrong: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        areas_by_masks({1: mask(LEFT), 2: wrong}, torch.zeros(60, 100, 3))


# --- faces ---


@pytest.mark.parametrize("count", [2, 4])
def test_faces_from_left_to_right(count: int) -> None:
    picture = people(count)
    areas = areas_by_faces(picture, count)
    assert areas.facts[0].startswith(f"{count} faces were found; from left to right")
    # In the row of four one cascade alone sees the third face.
    assert bool(areas.warnings) == (count == 4)
    assert (areas.masks.sum(dim=0) == 1).all(), "each pixel belongs to one"
    for number, area in enumerate(areas.masks):
        assert area[96, 192 * number + 96] == 1 and 0.7 < float(area.sum()) / 192**2 < 1.3


def test_faces_one_above_the_other_are_told_apart() -> None:
    areas = areas_by_faces(torch.cat([people(1), people(2)[:, 192:]]), 2).masks
    tops = sorted(float(area.nonzero()[:, 0].float().mean()) for area in areas)
    assert tops[0] < 192 < tops[1]


def test_more_faces_than_voices_stay_silent_in_areas_of_their_own() -> None:
    areas = areas_by_faces(people(3), 2)
    assert len(areas.masks) == 3
    assert areas.warnings[0].startswith(
        "3 faces were found in the picture for 2 voices: from left to right the first 2"
    )


@pytest.mark.parametrize(
    ("picture", "told"),
    [(people(1), "One face was found in the picture for 2 speakers."), (torch.rand(50, 90, 3), "No face was found")],
)
def test_the_picture_is_divided_where_faces_are_missing(picture: Tensor, told: str) -> None:
    areas = areas_by_faces(picture, 2)
    assert areas.warnings[0].startswith(told) and "divided into 2 equal parts" in areas.warnings[1]
    half = picture.shape[1] // 2
    assert areas.masks[0, :, :half].all() and areas.masks[1, :, half:].all() and (areas.masks.sum(dim=0) == 1).all()


def test_opencv_without_cascades_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    monkeypatch.delattr(cv2, "CascadeClassifier")
    told, divided = areas_by_faces(people(2), 2).warnings
    assert told.startswith(f"Faces were not looked for: OpenCV {cv2.__version__} has no face cascades; pip install")
    assert divided.endswith("If they do not fit, give each speaker a mask.")


def test_the_overlay_shows_each_area_in_its_colour() -> None:
    picture, areas = people(2, 64), areas_by_faces(people(2, 64), 2).masks
    shown = draw_areas(picture, areas)
    assert shown.shape == (1, 384, 768, 3) and float(shown.min()) >= 0 and float(shown.max()) <= 1
    blue = shown[0, :, :, 2] - shown[0, :, :, 0]
    plain = draw_areas(picture, torch.zeros(1, 64, 128))[0]
    tinted = blue - (plain[:, :, 2] - plain[:, :, 0])
    assert float(tinted[:, :360].mean()) > 0.1 and float(tinted[:, 410:].mean()) < -0.1
    assert draw_areas(None, areas).shape == (1, 384, 768, 3)


def test_what_the_sampler_says_of_faces() -> None:
    picture = people(2)
    areas = areas_by_faces(picture, 2).masks
    assert check_faces(picture, 128, 256, areas).warnings == ()
    (alone,) = check_faces(picture, 128, 256).warnings
    assert alone.startswith("2 faces were found in the picture, and all of them may move to one voice.")
    wrong = torch.stack([torch.ones(192, 384), torch.zeros(192, 384)])
    (said,) = check_faces(picture, 128, 256, wrong).warnings
    assert said.startswith("No face was found in the area of speaker 2.")
    cut = check_faces(picture, 128, 128, areas).warnings
    assert [text.split(":")[0] for text in cut] == [f"The face of speaker {n} is cut off" for n in (1, 2)]


# --- tokens ---


def test_a_voice_moves_what_no_other_speaker_has() -> None:
    """6x10 tokens of a video with the masks' aspect: nobody's tokens get both voices."""
    weights = token_weights(conversation(torch.stack([mask(LEFT), mask(RIGHT)])), plan())
    assert weights.shape == (2, 3, 6, 10) and torch.equal(weights[:, 0], weights[:, 2])
    columns = weights[:, 0, 0].tolist()
    assert columns == [[1] * 6 + [0] * 4, [0] * 4 + [1] * 6]


def test_the_margin_reaches_around_a_mask() -> None:
    masks = torch.stack([mask((slice(10, 30), slice(10, 20))), mask(RIGHT)])
    weights = token_weights(conversation(masks, 0.5), plan())[:, 0]
    assert weights[1].min() == 0 and weights[1, 0, 0] == 0, "a token around the small mask is not the other's"
    assert token_weights(conversation(masks, 0.0), plan())[1, 0, 0, 0] == 1


def test_masks_are_cropped_as_the_picture_is() -> None:
    masks = torch.stack([mask((slice(None), slice(0, 50))), mask((slice(None), slice(50, 100)))])
    weights = token_weights(conversation(masks), plan(96, 96))
    assert weights[:, 0, 0].tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
    with pytest.raises(InputError, match="the area of speaker 1 is outside of what the video shows"):
        token_weights(conversation(torch.stack([mask((slice(None), slice(0, 15))), mask(RIGHT)])), plan(96, 96))
    with pytest.raises(InputError, match="the area of speaker 1 is too small"):
        token_weights(conversation(torch.stack([mask((slice(0, 2), slice(0, 2))), mask(RIGHT)])), plan())
    with pytest.raises(InputError, match="marked in a picture of 100x60, and image is 64x64"):
        check_picture(conversation(masks), 64, 64)
    check_picture(conversation(masks), 600, 1000)
    assert replace(plan(), num_clip=2).grid == (6, 10)
