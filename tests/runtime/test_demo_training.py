"""The demo's training: the same numbers as the runtime's block loop, and data that means what it says."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo.training.clip_vae import (
    Norm,
    begin_as_clips,
    begin_as_pictures,
    decode_clips,
    decode_pictures,
    encode_clips,
    encode_pictures,
)
from demo.training.dataset import Track, poses
from demo.training.optimizers import Muon
from demo.training.parallel_forward import RELATIVE_DISTANCE, LaterText, Sequences, velocities
from demo.training.portraits import MOUTH_BOX, WALLS, Pose, draw, draw_person, in_front_of
from demo.training.train_vae import fold_statistics, train
from demo.training.voices import RATE, motion_of
from liveavatar_runtime import latent_space
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.config import DEMO
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.noise_schedule import flow_matching_schedule
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation, SamplingRequest
from liveavatar_runtime.sampling.script import Change, Script
from liveavatar_runtime.vae import DecodeState, EncodeState, VaeConfig, WanVAE
from liveavatar_runtime.vae.layers import ResidualBlock, Upsample

BLOCKS = 6


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Features:
    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def frames(self, first: int, count: int) -> torch.Tensor:
        return self.features[..., first : first + count]


@pytest.mark.parametrize("change", [None, 2], ids=["one prompt", "another from block 2 on"])
def test_whole_sequences_give_the_velocities_of_the_block_loop(change: int | None):
    torch.manual_seed(0)
    model = CausalWanS2V(DEMO).requires_grad_(False)
    layer: Any
    for layer in model.blocks:
        layer.modulation.mul_(8)
    script = Script() if change is None else Script((Change(block=change, text=True),))
    plan = ClipPlan(num_clip=2, infer_frames=12 * BLOCKS // 2, width=64, height=64, keep_aspect=False,
                    sink_policy="reference", relative_distance=RELATIVE_DISTANCE, script=script)  # fmt: skip
    audio = torch.randn(1, DEMO.audio_layers, DEMO.audio_dim, plan.frames)
    text, reference, motion = torch.randn(7, DEMO.text_dim), torch.randn(16, 1, 8, 8), torch.randn(16, 19, 8, 8)
    later = [] if change is None else [LaterText(change, torch.randn(4, DEMO.text_dim))]
    conditions = Conditions(text=text, reference=reference, motion=motion, audio=Features(audio),
                            texts={one.block: one.text for one in later})  # fmt: skip
    seen: list[Evaluation] = []
    for _ in LocalExecutor(model, torch.device("cpu"), torch.float32).run(
        SamplingRequest(conditions, plan, after_step=seen.append)
    ):
        pass
    by_block = audio[0].unflatten(-1, (BLOCKS, -1)).movedim(-2, 0)[None]
    unchanged = Sequences([text], reference[None], motion[None], by_block, [0])
    given = replace(unchanged, later=[*later]) if later else unchanged
    for step, timestep in enumerate(flow_matching_schedule(plan.steps, plan.shift).timesteps):
        evaluations = [e for e in seen if e.step == step]
        noisy = torch.cat([e.latents for e in evaluations], dim=1)[None]
        expected = torch.cat([e.velocity for e in evaluations], dim=1)[None]
        torch.testing.assert_close(velocities(model, noisy, [timestep], given), expected, atol=1e-4, rtol=0)
        if change is not None and step == 0:
            apart = (velocities(model, noisy, [timestep], unchanged) - expected).abs().amax(dim=(0, 1, 3, 4))
            assert apart[: 3 * change].max() < 1e-4 < apart[3 * change :].min(), "from the changed block on"


@pytest.fixture
def vae() -> WanVAE:
    """With everything at work that training uses: motion inside a latent, a decoder that sees the latents before."""
    torch.manual_seed(0)
    vae = WanVAE(VaeConfig(dim=8)).requires_grad_(False)
    begin_as_pictures(vae)
    begin_as_clips(vae)
    decoder: Any = vae.decoder
    latent_rate = [decoder.conv1]
    for layer in [*decoder.middle, *decoder.upsamples[:3]]:
        latent_rate += [layer.residual[2], layer.residual[6]] if isinstance(layer, ResidualBlock) else []
    doubling = [layer.time_conv for layer in decoder.upsamples if isinstance(layer, Upsample) and layer.temporal]
    for conv in [*latent_rate, *doubling]:
        conv.weight += 0.03 * torch.randn_like(conv.weight)
    return vae


def test_pictures_are_the_first_frames_of_videos(vae):
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    latents = encode_pictures(vae, pixels)
    torch.testing.assert_close(latents, vae.encode(pixels[:, :, None])[:, :, 0], atol=1e-4, rtol=0)
    # A decoder's past is empty there; before a clip, its first latent has always been there.
    begin_as_pictures(vae)
    torch.testing.assert_close(
        decode_pictures(vae, latents), vae.decode(latents[:, :, None])[:, :, 0], atol=1e-4, rtol=0
    )


def test_clips_are_what_streams_give_after_a_still_start(vae):
    pixels = torch.rand(1, 3, 12, 16, 16) * 2 - 1
    latents = encode_clips(vae, pixels)
    encoding = EncodeState()
    vae.encode_stream(pixels[:, :, :1].expand(-1, -1, 5, -1, -1), encoding)
    torch.testing.assert_close(latents, vae.encode_stream(pixels, encoding), atol=1e-4, rtol=0)
    frames = decode_clips(vae, latents)
    decoding = DecodeState()
    vae.decode_stream(latents[:, :, :1].expand(-1, -1, 28, -1, -1), decoding)
    torch.testing.assert_close(frames, vae.decode_stream(latents, decoding), atol=1e-4, rtol=0)
    torch.testing.assert_close(decode_clips(vae, latents, 1), frames[:, :, -4:], atol=1e-5, rtol=0)


def test_gradients_of_the_norm():
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    gamma = torch.randn(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Norm.apply, (x, gamma))


def test_folding_changes_the_latents_statistics_only(vae):
    pixels = torch.rand(2, 3, 8, 64, 64) * 2 - 1
    before = decode_clips(vae, encode_clips(vae, pixels))
    fold_statistics(vae, pixels)
    latents = encode_clips(vae, pixels)
    torch.testing.assert_close(decode_clips(vae, latents), before, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.tensor(latent_space.MEAN), atol=1e-2, rtol=0)
    torch.testing.assert_close(
        latents.transpose(0, 1).flatten(1).std(dim=1), torch.tensor(latent_space.STD), atol=1e-2, rtol=0
    )


class Stopped(Exception):
    pass


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    def trained(file: Path, stop_at: int | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        model: Any = torch.nn.Linear(4, 4)
        calls = 0

        def loss_of(model: Any, rng: np.random.Generator) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise Stopped
            return (model(torch.from_numpy(rng.random((8, 4))).float()) - torch.randn(8, 4)).square().mean()

        train(model, loss_of, file, steps=110, rate=1e-2, seed=3)
        return model.weight.detach()

    with pytest.raises(Stopped):
        trained(tmp_path / "stopped.pt", stop_at=105)
    assert torch.equal(trained(tmp_path / "stopped.pt"), trained(tmp_path / "whole.pt"))


def test_people_differ_and_are_drawn_the_same_every_time():
    assert draw_person(1) == draw_person(1) != draw_person(2)
    assert np.array_equal(draw(draw_person(1), Pose()), draw(draw_person(1), Pose()))


@pytest.mark.parametrize("word", WALLS)
def test_the_wall_has_the_colour_asked_for(word):
    frame = draw(in_front_of(draw_person(3), word), Pose())
    assert np.abs(frame[2:6, 1:4].astype(int) - WALLS[word]).max() <= 8


def test_an_open_mouth_changes_the_mouth_only():
    person = draw_person(4)
    changed = np.abs(draw(person, Pose(mouth=1.0)).astype(int) - draw(person, Pose())).max(axis=-1) > 2
    assert changed[MOUTH_BOX].mean() > 0.1
    changed[MOUTH_BOX] = False
    assert not changed.any()


def test_mouths_follow_the_energy_frame_by_frame():
    loud = torch.zeros(1, 3 * RATE)
    loud[:, RATE : 2 * RATE] = torch.sin(torch.arange(RATE) * 0.3)
    motion = motion_of(loud)
    silence = torch.zeros(1, 1, len(motion), 1)
    track = Track(AvatarAudio(silence, loud, RATE), AvatarAudio(motion[None, None], loud, RATE))
    mouths = [pose.mouth for pose in poses(track, 0, 48, Fraction(16))]
    assert max(mouths[:14] + mouths[34:]) < 0.05
    assert min(mouths[18:30]) > 0.5


def test_silence_is_a_still_person():
    assert motion_of(torch.zeros(1, RATE)).abs().max() == 0


def test_muon_steps_as_torchs_does_in_bf16() -> None:
    torch.manual_seed(0)
    shapes = [(12, 12), (12, 12), (24, 12), (12, 24)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    first = [parameter.detach().clone() for parameter in ours]
    both = [
        Muon(ours, lr=0.01),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in both:
            optimizer.step()
    for start, one, other in zip(first, ours, theirs, strict=True):
        assert (one - other).norm() < 0.02 * (other - start).norm()
