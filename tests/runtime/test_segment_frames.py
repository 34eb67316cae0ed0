"""Decoded frames of segments against those of one run: how many latents the decoder must see before a segment."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_blocks import MadeRun
from torch import Tensor

from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.spool.latent_stream import LatentStream, Storage
from liveavatar_runtime.spool.spool import Spool
from liveavatar_runtime.vae import WAN_2_1, PlacedVAE, VaeConfig, WanVAE, load_wan_vae
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

CPU = torch.device("cpu")
DEMO_VAE = Path(__file__).parents[2] / "demo" / "liveavatar-demo" / "Wan2.1_VAE.safetensors"
PLAN = ClipPlan(num_clip=15, infer_frames=12, width=64, height=64, keep_aspect=False)


def wan_layout() -> WanVAE:
    """The released VAE's layers, narrow."""
    torch.manual_seed(0)
    return WanVAE(replace(WAN_2_1, dim=4)).eval().requires_grad_(False)


def demo() -> WanVAE:
    return load_wan_vae(read_weight_file(DEMO_VAE)[0], dtype=torch.float32)


def one_block_a_stage() -> WanVAE:
    torch.manual_seed(1)
    return WanVAE(VaeConfig(dim=4, num_res_blocks=1)).eval().requires_grad_(False)


def latents(block: int, side: int = 8) -> Tensor:
    return torch.randn(16, 3, side, side, generator=torch.Generator().manual_seed(block + 1))


def stream_of(folder: Path, plan: ClipPlan) -> LatentStream:
    history = torch.randn(16, 7, 8, 8, generator=torch.Generator().manual_seed(0))
    return LatentStream(plan, history, MadeRun.start(latents), Storage(Spool(folder)))


def decoded(vae: WanVAE, stream: LatentStream, past: int) -> Tensor:
    """Pixels [3, frames, H, W] of a segment."""
    start = "hold" if stream.segment.starts_video else None
    decoder = OnlineDecoder(PlacedVAE(vae, CPU, torch.float32), stream.priming(past), start)
    return torch.cat([decoder.decode(block.latents) for block in stream], dim=1)


def test_segments_decode_to_the_frames_of_one_run(tmp_path):
    """With the demo's VAE, as far from the start as its decoder looks back, and further."""
    torch.set_num_threads(1)
    vae = demo()
    past = vae.config.decoder_past_latents
    whole = decoded(vae, stream_of(tmp_path / "spool", PLAN), past)
    assert whole.shape[1] == PLAN.frames and past == 39
    for clips, index in ((13, 1), (14, 1)):
        stream = stream_of(tmp_path / "spool", replace(PLAN, segment_clips=clips, segment_index=index))
        first = stream.segment.first_frame
        part = decoded(vae, stream, past)
        assert torch.equal(part, whole[:, first : first + stream.segment.frames]), (clips, index)


@pytest.mark.parametrize(("make", "expected"), [(wan_layout, 39), (one_block_a_stage, 31)])
def test_how_far_back_a_decoder_looks(make, expected):
    """As far as the formula says gives the same bits; a block less does not."""
    torch.set_num_threads(1)
    vae = make()
    past = vae.config.decoder_past_latents
    assert past == expected
    video = torch.cat([latents(block, side=1) for block in range(past // 3 + 2)], dim=1)
    before, last = video[:, :-1], video[:, -1:]

    def last_frames(given: int) -> Tensor:
        return OnlineDecoder(PlacedVAE(vae, CPU, torch.float32), before[:, -given:], None).decode(last)

    whole = last_frames(before.shape[1])
    assert before.shape[1] > past and torch.equal(last_frames(past), whole)
    assert not torch.equal(last_frames(past - 3), whole)
