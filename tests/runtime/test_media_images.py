"""Sizes, pictures into the model, frames out of it."""

import numpy as np
import pytest
import torch

from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.media.images import fit_picture, fit_size, read_picture, to_float_frames, to_uint8_frames


def flat(height: int, width: int, *values: float) -> torch.Tensor:
    return torch.tensor(values).expand(height, width, len(values)).clone()


def near(pixels: torch.Tensor, *expected: float) -> bool:
    """Pixels [3] in -1..1 against colours in 0..1, to half an 8 bit level."""
    return torch.allclose((pixels + 1) / 2, torch.tensor(expected), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("height", "width", "area"),
    [
        (1080, 1920, 688 * 368),
        (1920, 1080, 688 * 368),
        (512, 512, 384 * 256),
        (100, 75, 688 * 368),
        (16, 16, 704 * 384),
    ],
)
def test_sizes_keep_the_aspect_within_the_area(height, width, area):
    fitted_height, fitted_width = fit_size(height, width, area)
    assert fitted_height % 64 == fitted_width % 64 == 0
    assert 0.6 * area < fitted_height * fitted_width <= area
    assert 0.75 < (fitted_width / fitted_height) / (width / height) < 1.34


def test_small_pictures_are_enlarged_unless_asked_not_to():
    assert fit_size(192, 352, 384 * 704) == (384, 704)
    assert fit_size(192, 352, 384 * 704, enlarge=False) == (192, 384)


def test_other_multiples():
    assert fit_size(368, 688, 688 * 368, multiple=16) == (368, 688)
    assert fit_size(100, 100, 100 * 100, multiple=50) == (100, 100)


def test_extreme_pictures_get_a_size_or_an_error():
    assert fit_size(20000, 16, 688 * 368) == (3840, 64)
    assert min(fit_size(16, 100000, 384 * 256)) == 64
    with pytest.raises(InputError, match="4096"):
        fit_size(500, 500, 4000)
    with pytest.raises(InputError, match="at least 1"):
        fit_size(0, 500, 688 * 368)


@pytest.mark.parametrize("size", [(40, 40), (30, 80), (80, 30), (400, 30)])
def test_cover_fills_the_frame_and_keeps_the_centre(size):
    picture = flat(*size, 0.8, 0.4, 0.2)
    fitted = fit_picture(picture, 64, 128)
    assert fitted.shape == (3, 64, 128) and fitted.dtype == torch.float32 and fitted.is_contiguous()
    assert torch.equal(fitted.amin((1, 2)), fitted.amax((1, 2)))
    assert near(fitted[:, 0, 0], 0.8, 0.4, 0.2)


def test_cover_cuts_evenly_without_distortion():
    """A centred disc stays a centred disc."""
    y, x = torch.meshgrid(torch.arange(200) - 99.5, torch.arange(90) - 44.5, indexing="ij")
    disc = ((y**2 + x**2).sqrt() < 30).float()[..., None]
    inside = fit_picture(disc, 64, 128)[0] > 0
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    assert rows[0] + rows[-1] == 63 and columns[0] + columns[-1] == 127
    # 90 pixels of width became 128.
    assert abs(len(columns) - 60 * 128 / 90) <= 1


def test_same_size_is_exact():
    picture = torch.randint(0, 256, (64, 96, 3), generator=torch.Generator().manual_seed(0)).float() / 255
    for mode in ("cover", "pad"):
        fitted = fit_picture(picture, 64, 96, mode=mode)
        assert torch.allclose(fitted.permute(1, 2, 0), picture * 2 - 1, atol=1e-6)


def test_pad_has_black_bars():
    fitted = fit_picture(flat(60, 60, 1.0, 1.0, 1.0), 64, 128, mode="pad")
    assert torch.equal(fitted[0, 5], torch.tensor([-1.0] * 32 + [1.0] * 64 + [-1.0] * 32))


def test_grey_and_alpha():
    assert near(fit_picture(flat(20, 20, 0.2), 64, 64)[:, 3, 3], 0.2, 0.2, 0.2)
    glass = flat(20, 20, 1.0, 0.0, 0.0, 0.5)
    assert near(fit_picture(glass, 64, 64)[:, 3, 3], 1.0, 0.5, 0.5)
    assert near(fit_picture(glass, 64, 64, background=(0.0, 0.0, 1.0))[:, 3, 3], 0.5, 0.0, 0.5)
    clear = flat(20, 20, 0.3, 0.9, 0.1, 0.0)
    assert near(fit_picture(clear, 64, 64)[:, 3, 3], 1.0, 1.0, 1.0)


def test_values_outside_0_to_1_are_clipped():
    assert near(fit_picture(flat(20, 20, 1.7, -0.4, 0.5), 64, 64)[:, 3, 3], 1.0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (torch.zeros(1, 1, 3), "1x1 pixels; it must be at least 16x16"),
        (torch.zeros(300, 15, 3), "15x300"),
        (torch.full((20, 20, 3), torch.nan), "NaN"),
        (torch.full((20, 20, 3), torch.inf), "infinity"),
        (torch.zeros(20, 20, 2), "RGBA"),
        (torch.zeros(1, 20, 20, 3), r"\[1, 20, 20, 3\]"),
        (torch.zeros(20, 20, 3, dtype=torch.uint8), "uint8"),
    ],
)
def test_pictures_that_cannot_be_used(picture, text):
    with pytest.raises(InputError, match=text):
        fit_picture(picture, 64, 64)


def test_unknown_mode():
    with pytest.raises(InputError, match="cover, pad"):
        fit_picture(torch.zeros(20, 20, 3), 64, 64, mode="stretch")  # pyright: ignore[reportArgumentType]


def test_the_first_picture_of_a_batch_is_used_and_said():
    batch = torch.rand(3, 20, 30, 3, generator=torch.Generator().manual_seed(0))
    picture, changes = read_picture(batch)
    assert torch.equal(picture, batch[0]) and changes == ("3 pictures were given; the first one is used.",)
    for single in (batch[:1], batch[0]):
        picture, changes = read_picture(single)
        assert torch.equal(picture, batch[0]) and not changes


LEVELS = torch.arange(256).view(16, 16, 1).expand(16, 16, 3)


@pytest.mark.parametrize(
    "given",
    [
        LEVELS.to(torch.uint8),
        LEVELS[None],
        LEVELS.int().numpy(),
        (LEVELS.numpy().astype(np.uint16) * 257),
        LEVELS.double() / 255,
        (LEVELS.numpy() / 255).astype(np.float64),
        (LEVELS.float() / 255).half(),
    ],
    ids=lambda given: str(given.dtype),
)
def test_pictures_of_every_type(given):
    picture, changes = read_picture(given)
    assert not changes and torch.equal(to_uint8_frames(fit_picture(picture, 16, 16)[:, None])[0].long(), LEVELS)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_opaque_pictures_need_no_words(channels):
    assert not read_picture(torch.ones(1, 20, 20, channels))[1]


def test_what_is_done_to_a_picture_is_said():
    assert read_picture(torch.full((20, 20, 4), 0.9))[1] == (
        "The picture is transparent in parts; white is laid behind them.",
    )
    picture, (said,) = read_picture(LEVELS.float())
    assert said == "The picture's values reach 255: they were read as 0 to 255."
    assert torch.equal(picture, LEVELS.float() / 255)
    (said,) = read_picture(flat(20, 20, -1.0, 0.5, 1.0))[1]
    assert said.startswith("The picture's values go from -1.00 to 1.00; below 0 is cut to black")
    assert not read_picture(flat(20, 20, -0.1, 0.5, 1.1))[1], "Lanczos overshoots"


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (torch.zeros(0, 20, 30, 3), "batch, height, width"),
        (torch.zeros(20, 30), "batch, height, width"),
        (torch.zeros(1, 1, 20, 30, 3), "batch, height, width"),
        (torch.zeros(1, 3, 20, 30), "batch, height, width"),
        (torch.zeros(1, 20, 30, 2), "RGBA"),
        (torch.full((20, 20, 3), torch.nan), "NaN"),
        (torch.full((20, 20, 3), 300), "from 300 to 300; they must be 0 to 255"),
        (torch.full((20, 20, 3), -1), "from -1 to -1"),
        (None, "a NoneType; it must be an IMAGE"),
        ([1], "a list"),
    ],
)
def test_images_that_cannot_be_used(image, text):
    with pytest.raises(InputError, match=text):
        read_picture(image)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_frames_out_of_the_decoder(dtype):
    pixels = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5], dtype=dtype)[None, :, None, None].expand(3, 5, 4, 6)
    frames = to_uint8_frames(pixels)
    assert frames.shape == (5, 4, 6, 3) and frames.dtype == torch.uint8 and frames.is_contiguous()
    assert frames[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    floats = to_float_frames(pixels)
    assert floats.shape == (5, 4, 6, 3) and floats.dtype == torch.float32
    assert floats[:, 0, 0, 0].tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_every_level_survives_the_way_through_the_model_range():
    levels = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3)
    pixels = fit_picture(levels.float() / 255, 16, 16)
    assert torch.equal(to_uint8_frames(pixels[:, None])[0], levels)


def test_frames_that_are_not_numbers():
    pixels = torch.zeros(3, 1, 4, 4)
    pixels[0, 0, 1, 1] = torch.nan
    for convert in (to_uint8_frames, to_float_frames):
        with pytest.raises(MachineError, match="float32"):
            convert(pixels)
        with pytest.raises(InputError, match="3, frames, height, width"):
            convert(torch.zeros(1, 3, 2, 4, 4))
