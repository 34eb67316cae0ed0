"""Changes that the layout has one place for: made there, they are made everywhere (docs/ARCHITECTURE.md)."""

from dataclasses import replace
from pathlib import Path

from media_files import HEIGHT, WIDTH, numbered_frames, run_python, video_writer
from video_facts import probe

from liveavatar_runtime import latent_space
from liveavatar_runtime.media.codecs import CODECS
from liveavatar_runtime.media.join import Joining, join, read_parts

ROOT = Path(__file__).parents[2]
PACKAGES = ("liveavatar_runtime", "liveavatar_workers", "comfy_bridge", "nodes")

OTHER_LATENTS = """
from liveavatar_runtime import latent_space
latent_space.CHANNELS, latent_space.STRIDE, latent_space.TOKEN_SIDE = 48, 16, 32
latent_space.MEAN, latent_space.STD = (0.5,) * 48, (2.0,) * 48

import torch
from liveavatar_runtime.config import DEMO
from liveavatar_runtime.planning.advice import spool_bytes
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.spool.resume import clip_shape
from liveavatar_runtime.vae import VaeConfig, to_model_space
from liveavatar_workers.checks import check_tensor
from liveavatar_workers.client import decoder
from liveavatar_workers.rank.decoder_rank import checked_latents

plan = ClipPlan(num_clip=1, infer_frames=12, width=64, height=96, keep_aspect=False)
noise = plan.block_noise(0)
assert noise.shape == (48, 3, 6, 4), noise.shape
assert clip_shape(plan) == (48, 3, 6, 4) and spool_bytes(plan) == noise.nbytes
assert (DEMO.in_dim, DEMO.out_dim, DEMO.cond_dim, VaeConfig().z_dim) == (48,) * 4
assert torch.equal(to_model_space(noise), (noise - 0.5) / 2)
assert checked_latents("latents", noise) is noise and decoder.STRIDE == 16
"""
OTHER_FEATURE_RATE = """
from liveavatar_runtime import duration
duration.ENCODER_FRAME_SAMPLES, duration.FEATURE_RATE = 160, 100

import torch
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.windows import LongTrack, encode_in_windows

def encode(samples, rate):
    frames = (samples.shape[-1] - 400) // 160 + 1
    return samples[:, : 160 * frames].view(1, frames, 160).float()[..., :4]

sound = torch.randn(1, 16000 * 8)
windows = encode_in_windows(encode, sound, 16000, LongTrack(window_seconds=3, context_seconds=1))
assert windows.shape == (1, 798, 4) and torch.equal(windows, encode(sound, 16000))
assert abs(AvatarAudio(windows[None], sound, 16000).video_frames(25) - 200) <= 2
"""


def test_a_vae_of_other_latents() -> None:
    done = run_python(OTHER_LATENTS)
    assert done.returncode == 0, done.stderr


def test_another_feature_rate() -> None:
    done = run_python(OTHER_FEATURE_RATE)
    assert done.returncode == 0, done.stderr


def test_the_latent_space_is_told_in_one_file() -> None:
    number = str(latent_space.MEAN[0])
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert [path.name for path in files if number in path.read_text("utf-8")] == ["latent_space.py"]


def test_a_codec(tmp_path: Path, monkeypatch) -> None:
    """It is written, joined and encoded again."""
    monkeypatch.setitem(CODECS, "other", replace(CODECS["h264"]))
    paths = [tmp_path / f"{number}.mp4" for number in range(2)]
    for path in paths:
        with video_writer(path, WIDTH, HEIGHT, codec="other") as video:
            video.write_frames(numbered_frames(0, 12))
    for reencode in (False, True):
        assert join(read_parts(paths), tmp_path / "whole.mp4", Joining(reencode=reencode)) == 24
    assert probe(tmp_path / "whole.mp4").frames == 24
