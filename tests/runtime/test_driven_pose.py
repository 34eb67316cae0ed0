"""Poses of a driving video: which pictures make the latents of which block, whatever was encoded before it."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny_avatar import NoisePose, random_conditions, random_model
from torch import Tensor

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.media.driving_video import PicturesInMemory
from liveavatar_runtime.media.images import fit_picture
from liveavatar_runtime.sampling.driven_pose import DrivenPose, DrivingVideo
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.sampling.video_key import Numerics, video_key
from liveavatar_runtime.vae import EncodeState, PlacedVAE, VaeConfig, WanVAE, to_model_space
from liveavatar_runtime.vae.memory import encode_bytes_per_pixel

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
PLAN = ClipPlan(num_clip=3, infer_frames=24, width=64, height=64, keep_aspect=False)
PICTURES = torch.rand(60, 40, 48, 3, generator=torch.Generator().manual_seed(1))


class Counted(PicturesInMemory):
    """Which times were asked for."""

    def __init__(self, pictures: Tensor, rate: Fraction) -> None:
        super().__init__(pictures, rate)
        self.asked: list[Fraction] = []

    def picture_at(self, seconds: Fraction) -> np.ndarray:
        self.asked.append(seconds)
        return super().picture_at(seconds)


@pytest.fixture(scope="module")
def place() -> PlacedVAE:
    torch.manual_seed(4)
    return PlacedVAE(WanVAE(VaeConfig(dim=8, num_res_blocks=1)).eval().requires_grad_(False), CPU, torch.float32)


def pose(place: PlacedVAE, pictures: PicturesInMemory | None = None, loops: bool = False) -> DrivenPose:
    pictures = pictures or PicturesInMemory(PICTURES, PLAN.fps)
    return DrivenPose(DrivingVideo(pictures, loops, "key"), PLAN, place)


def clip_encoded_whole(place: PlacedVAE, numbers: list[int]) -> Tensor:
    """As the original encodes a clip: its first picture once more in front, whose latent is left out."""
    video = torch.stack([fit_picture(PICTURES[n], 64, 64) for n in [numbers[0], *numbers]], dim=1)
    with torch.inference_mode():
        return to_model_space(place.vae.encode(video[None])[0, :, 1:])


def test_blocks_are_those_of_whole_clips_bit_for_bit_in_whatever_order(place):
    whole = [clip_encoded_whole(place, [min(n, 59) for n in range(24 * clip, 24 * clip + 24)]) for clip in range(3)]
    expected = [part for latents in whole for part in latents.split(3, dim=1)]
    driven = pose(place)
    assert [driven.latents(block).shape for block in range(6)] == [(16, 3, 8, 8)] * 6
    for block in (0, 1, 2, 3, 4, 5, 2, 0):
        assert torch.equal(driven.latents(block), expected[block]), block
    for block in (3, 5, 0):
        assert torch.equal(pose(place).latents(block), expected[block]), block


def test_a_block_in_mid_video_reads_its_clip_only(place):
    counted = Counted(PICTURES, PLAN.fps)
    pose(place, counted).latents(3)
    assert counted.asked == [Fraction(frame, 16) for frame in range(24, 48)]


def test_after_the_end_the_last_picture_stays_or_all_begins_again(place):
    held, looped = pose(place).latents(5), pose(place, loops=True).latents(5)
    last = [*range(48, 60), *[59] * 12], [*range(48, 60), *range(12)]
    assert torch.equal(held, clip_encoded_whole(place, last[0])[:, 3:])
    assert torch.equal(looped, clip_encoded_whole(place, last[1])[:, 3:])


def test_an_error_in_a_picture_leaves_nothing_half_encoded(place):
    class Failing(PicturesInMemory):
        fails = True

        def picture_at(self, seconds: Fraction) -> np.ndarray:
            if self.fails and seconds >= 1:
                raise InputError("the file is damaged")
            return super().picture_at(seconds)

    pictures = Failing(PICTURES, PLAN.fps)
    driven = pose(place, pictures)
    with pytest.raises(InputError, match="damaged"):
        driven.latents(1)
    pictures.fails = False
    assert torch.equal(driven.latents(1), pose(place).latents(1))


def test_blocks_of_a_batch_have_each_their_own_pose():
    local = LocalExecutor(random_model(), CPU, torch.float32)
    request = SamplingRequest(replace(random_conditions(plan=PLAN), pose=NoisePose()), PLAN)
    for one, other in zip(replace(local, batched=True).run(request), local.run(request), strict=True):
        torch.testing.assert_close(one.latents, other.latents, atol=1e-5, rtol=0)


def test_a_pose_is_part_of_the_videos_key_where_there_is_one():
    def key(name: str) -> str:
        conditions = replace(random_conditions(plan=PLAN), pose=NoisePose(), pose_key=name)
        return video_key("weights", Numerics("f32", "f32"), conditions, "voice", PLAN)

    plain = video_key("weights", Numerics("f32", "f32"), random_conditions(plan=PLAN), "voice", PLAN)
    assert len({plain, key("one"), key("other")}) == 3
    assert key("one") == key("one")


def test_pictures_that_cannot_drive_are_refused():
    broken = PICTURES.clone()
    broken[3, 0, 0, 0] = torch.nan
    for pictures, why in (
        (PICTURES[:0], "at least one picture"),
        (PICTURES[..., :2], "1, 3 or 4 channels"),
        (PICTURES[0], "float"),
        (PICTURES.byte(), "float"),
        (PICTURES[:, :9], "at least 16x16"),
        (broken, "not numbers"),
    ):
        with pytest.raises(InputError, match=why):
            PicturesInMemory(pictures, Fraction(16))


def test_grey_pictures_and_transparent_ones_become_rgb_on_black():
    grey = PicturesInMemory(torch.full((1, 16, 16, 1), 0.5), Fraction(16)).picture_at(Fraction(0))
    assert grey.shape == (16, 16, 3) and (grey == 128).all()
    see_through = torch.ones(1, 16, 16, 4)
    see_through[..., 3] = 0.25
    pictures = PicturesInMemory(see_through, Fraction(16))
    assert pictures.has_alpha and (pictures.picture_at(Fraction(0)) == 64).all()


def test_encoding_takes_the_memory_that_is_planned():
    from benchmarks.live_bytes import LiveBytes

    vae = WanVAE(VaeConfig(dim=16)).eval().requires_grad_(False)
    pixels, state, live = torch.rand(1, 3, 13, 64, 96), EncodeState(), LiveBytes()
    with torch.inference_mode(), live.counted():
        vae.encode_stream(pixels, state)
        vae.encode_stream(pixels[:, :, 1:], state)
    assert live.peak() == pytest.approx(encode_bytes_per_pixel(vae.config, torch.float32) * 64 * 96, rel=0.1)
