"""Picture and voice to latents and frames, against the original's whole program with the tiny models.

Followed by our design: picture -> reference and motion latents, voice alignment, sampling (its offline run keeps the
reference picture), and decoding of the first clip. Not followed, on purpose: the latents of its online run's later
clips (it encodes decoded frames again for the motion history) and its offline decoder's re-encoded history window.
"""

from fractions import Fraction

import pytest
import torch
from closeness import assert_close_after
from rollout import INPUTS, TOLERANCE

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, Prepared, prepare
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae import PlacedVAE, encode_still, load_wan_vae, to_model_space
from liveavatar_runtime.vae.online_decoder import START_FRAMES, OnlineDecoder

FILE = "e2e.safetensors"
ENCODER_CONVOLUTIONS, TERMS = 30, 3**3 * 8
"""Of the VAE: about as many are one after the other, each a sum of so many terms."""
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def vae(golden):
    return load_wan_vae(golden.tensors("vae.safetensors"))


@pytest.fixture(scope="module")
def prepared(golden, vae) -> Prepared:
    about, stored, constants = golden.about(FILE), golden.tensors(FILE), golden.manifest["rollout_constants"]
    features = stored["audio_features_50hz"]
    fps = Fraction(about["fps"])
    # The track is as long as its features; the waveform itself is not read by the model.
    seconds = Fraction(features.shape[1] + 1, 50)
    audio = AvatarAudio(features[None], torch.zeros(1, int(seconds * 16000)), 16000)
    picture = stored["ref_image_u8"]
    plan = ClipPlan(
        num_clip=about["runs"]["offline"]["num_clips"],
        infer_frames=constants["infer_frames"],
        fps=fps,
        width=picture.shape[1],
        height=picture.shape[0],
        keep_aspect=False,
        seed=about["noise_seed"],
        sink_policy="reference",
        relative_distance=tuple(stored["relative_dist"].flatten().tolist()),
    )
    text = golden.tensors(INPUTS)["context"]
    return prepare(plan, golden.config, Inputs(picture.float() / 255, text, audio), PlacedVAE(vae, CPU, torch.float32))


@pytest.fixture(scope="module")
def clips(golden_dit, prepared) -> list[torch.Tensor]:
    blocks = LocalExecutor(golden_dit, CPU, torch.float32).run(SamplingRequest(prepared.conditions, prepared.plan))
    latents = [block.latents for block in blocks]
    size = prepared.plan.blocks_per_clip
    return [torch.cat(latents[n : n + size], dim=1) for n in range(0, len(latents), size)]


def test_picture_latents(golden, prepared):
    stored = golden.tensors(FILE)
    selected = stored["motion_latents_92_sel"][0]
    for ours, theirs in (
        (prepared.conditions.reference[None], stored["ref_latents"]),
        (prepared.conditions.motion[:, :1], selected[:, 3:4]),
        (prepared.conditions.motion[:, -1:], selected[:, 4:]),
    ):
        assert_close_after(ENCODER_CONVOLUTIONS, TERMS, ours, theirs)


def test_voice_alignment(golden, prepared):
    expected = golden.tensors(FILE)["audio_emb_mean"][0]
    features = prepared.conditions.audio.frames(0, prepared.plan.frames)[0]
    torch.testing.assert_close(features.mean(dim=(0, 1)), expected, atol=1e-5, rtol=0)


def test_no_clip_was_dropped(golden, prepared):
    assert prepared.plan.num_clip == golden.about(FILE)["runs"]["offline"]["num_clips"] and not prepared.notes


def test_latents(golden, clips):
    stored = golden.tensors(FILE)
    first, second = clips[0], clips[1]
    torch.testing.assert_close(first[:, :3], stored["clip_latents.c0.block0"], **TOLERANCE)
    torch.testing.assert_close(first[:, -3:], stored["clip_latents.c0.block3"], **TOLERANCE)
    torch.testing.assert_close(second[:, -3:], stored["offline.clip_latents.c1.block3"], **TOLERANCE)


def decoded(vae, priming: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
    decoder = OnlineDecoder(PlacedVAE(vae, CPU, torch.float32), priming, "trim")
    return torch.cat([decoder.decode(block) for block in clip.split(3, dim=1)], dim=1)[:, :, 3::16, 5::8]


def test_frames_of_the_first_clip(golden, vae, prepared, clips):
    """All of the still history that the decoder looks back to gives the frames of the original's offline decoder.

    The 19 latents of the motion history are fewer, and how much of the rest shows depends on the VAE's weights.
    """
    frames = prepared.plan.infer_frames - START_FRAMES
    expected = golden.tensors(FILE)["offline.video_sub"][:, :frames]
    settled = prepared.conditions.motion[:, -1:].expand(-1, vae.config.decoder_past_latents, -1, -1)
    torch.testing.assert_close(decoded(vae, settled, clips[0]), expected, **TOLERANCE)


def test_our_short_priming_is_closer_than_the_originals(golden, vae, prepared, clips):
    """Seven settled latents against the first seven of the still video, at the same cost."""
    frames = prepared.plan.infer_frames - START_FRAMES
    expected = golden.tensors(FILE)["offline.video_sub"][:, :frames]
    picture = golden.tensors(FILE)["ref_image_u8"].permute(2, 0, 1).float() / 255 * 2 - 1
    with torch.inference_mode():
        start = to_model_space(encode_still(vae, picture, prepared.priming.shape[1]))
    ours, original = ((decoded(vae, p, clips[0]) - expected).abs().mean() for p in (prepared.priming, start))
    assert ours < original / 2
