"""The VAE against the original's encode, decode, stream decode and latents of a still picture."""

import re

import pytest
import torch
from torch import Tensor

from liveavatar_runtime import latent_space
from liveavatar_runtime.vae import (
    DecodeState,
    EncodeState,
    WanVAE,
    encode_still,
    from_model_space,
    load_wan_vae,
    to_model_space,
)

ATOL = 1e-5


@pytest.fixture(scope="module")
def vae(golden) -> WanVAE:
    return load_wan_vae(golden.tensors("vae.safetensors"))


@pytest.fixture(scope="module")
def io(golden) -> dict[str, Tensor]:
    return golden.tensors("vae_io.safetensors")


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max().item()
    assert error <= ATOL, error


def test_sizes_and_scale_are_those_of_the_original(golden, vae, io):
    given = golden.manifest["vae_config"]
    assert vae.config.dim == given["dim"]
    assert vae.config.z_dim == given["z_dim"]
    assert list(vae.config.dim_mult) == given["dim_mult"]
    assert vae.config.num_res_blocks == given["num_res_blocks"]
    assert list(vae.config.temporal_downsample) == given["temperal_downsample"]
    assert list(latent_space.MEAN) == golden.manifest["vae_mean"]
    assert list(latent_space.STD) == golden.manifest["vae_std"]
    assert torch.equal(io["scale_mean"], torch.tensor(latent_space.MEAN))
    assert torch.equal(io["scale_std"], torch.tensor(latent_space.STD))


def test_encode(vae, io):
    raw = vae.encode(io["encode.input"])
    close(raw, io["encode.output_unscaled"])
    close(to_model_space(raw), io["encode.output"])


def test_encode_stream_in_pieces(vae, io):
    video, state, stride = io["encode.input"], EncodeState(), vae.config.temporal_stride
    pieces = [video[:, :, :1], *video[:, :, 1:].split(stride, dim=2)]
    close(torch.cat([vae.encode_stream(piece, state) for piece in pieces], dim=2), io["encode.output_unscaled"])


def test_decode(vae, io):
    close(vae.decode(from_model_space(io["decode.input"])), io["decode.output_raw"])


def test_decode_stream_gives_the_frames_of_each_call(golden, vae, io):
    frames_per_call = golden.about("vae_io.safetensors")["stream_decode_frames_per_call"]
    latents, expected = from_model_space(io["stream.input"]), io["stream.output_raw"]
    state, first_latent, first_frame = DecodeState(), 0, 0
    for frames in frames_per_call:
        # The first frame of the video is a latent frame of its own.
        count = (frames + vae.config.temporal_stride - 1) // vae.config.temporal_stride
        decoded = vae.decode_stream(latents[:, :, first_latent : first_latent + count], state)
        close(decoded, expected[:, :, first_frame : first_frame + frames])
        first_latent += count
        first_frame += frames
    assert first_latent == latents.shape[2]


def test_latents_of_the_still_reference_picture(golden, vae):
    """The reference latent and the motion history, which the original takes from 365 encoded frames."""
    e2e, about = golden.tensors("e2e.safetensors"), golden.about("e2e.safetensors")
    picture = e2e["ref_image_u8"].permute(2, 0, 1) / 127.5 - 1
    close(to_model_space(encode_still(vae, picture, 1, first_latent=1)), e2e["ref_latents"][0])

    expected = e2e["motion_latents_92_sel"][0]
    stored = re.search(r"frames ([\d,]+) of", about["tensors"]["motion_latents_92_sel"])
    assert stored is not None
    frames = [int(number) for number in stored[1].split(",")]
    for i, frame in enumerate(frames):
        close(to_model_space(encode_still(vae, picture, 1, first_latent=frame))[:, 0], expected[:, i])

    total = max(shape[1] for call, _, shape in about["runs"]["offline"]["vae_calls"] if call == "encode")
    history = golden.manifest["rollout_constants"]["motion_frames"][1]
    motion = to_model_space(encode_still(vae, picture, history, first_latent=total - history))
    assert total - 1 in frames
    close(motion[:, -1], expected[:, frames.index(total - 1)])
