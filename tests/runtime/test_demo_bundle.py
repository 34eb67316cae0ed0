"""The demo model: built the same every time, complete, readable by the runtime, and steered by all of its inputs."""

import hashlib
import json
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import sentencepiece
import torch

from demo import architecture, build_demo, draw_portrait
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.wav2vec2 import load_wav2vec2
from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.detect import detect_config
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint, read_json
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.config import DEMO
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.conditions import AlignedAudio, Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import encode_picture
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae import PlacedVAE, from_model_space, load_wan_vae, to_model_space

DEMO_FOLDER = Path(__file__).parents[2] / "demo"
BUNDLE = find_bundle(DEMO_FOLDER / "liveavatar-demo")
LARGEST_BUNDLE = 20 * 2**20
RATE = 16000
TOKENIZER = "umt5/spiece.model"


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def test_a_rebuild_gives_the_committed_files_that_are_not_trained(tmp_path):
    build_demo.build(tmp_path)
    # The tokenizer's file also records sentencepiece's options, which differ between its releases.
    assert pieces(tmp_path / TOKENIZER) == pieces(BUNDLE.folder / TOKENIZER)
    (tmp_path / TOKENIZER).write_bytes((BUNDLE.folder / TOKENIZER).read_bytes())
    rebuilt, committed = digests(tmp_path), digests(BUNDLE.folder)
    assert rebuilt.keys() == committed.keys()
    for trained in ("Wan2.1_VAE.safetensors", "diffusion_pytorch_model.safetensors", "wav2vec2/model.safetensors"):
        assert rebuilt.pop(trained) != committed.pop(trained)
    assert rebuilt == committed


def pieces(tokenizer: Path) -> list[tuple[str, float]]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    return [(model.id_to_piece(n), model.get_score(n)) for n in range(model.get_piece_size())]


@pytest.mark.parametrize("builder", [b for b in build_demo.BUILDERS if b is not build_demo.build_text_encoder])
def test_the_seed_decides_the_weights(tmp_path, builder):
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        builder(tmp_path / name, seed)
    first, again, other = (digests(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    weights = [name for name in first if name.endswith(".safetensors")]
    assert weights
    assert all(first[name] != other[name] for name in weights)


def test_portrait_and_voice():
    stored = cv2.imread(str(DEMO_FOLDER / "portrait.png"), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    difference = np.abs(stored[..., ::-1].astype(int) - draw_portrait.draw())
    assert difference.mean() < 0.5  # another release of OpenCV may round edges differently
    voice = read_voice()
    assert 6 <= voice.shape[1] / RATE <= 7.5
    assert 0.5 < voice.abs().max() < 1


def read_voice() -> torch.Tensor:
    """[1, S] at RATE"""
    with av.open(str(DEMO_FOLDER / "voice.wav")) as file:
        stream = file.streams.audio[0]
        assert (stream.rate, stream.channels) == (RATE, 1)
        samples = np.concatenate([frame.to_ndarray() for frame in file.decode(stream)], axis=-1)
    return torch.from_numpy(samples.astype(np.float32) / 32768)


def test_bundle_is_complete_and_small():
    assert BUNDLE.vae and BUNDLE.text_encoder and BUNDLE.text_config and BUNDLE.tokenizer and BUNDLE.wav2vec2
    assert sum(path.stat().st_size for path in BUNDLE.folder.rglob("*")) < LARGEST_BUNDLE


def test_architecture_from_the_header_and_from_the_config():
    checkpoint = open_checkpoint(BUNDLE.model)
    assert detect_config(checkpoint) == DEMO
    assert detect_config(checkpoint, read_json(BUNDLE.config)) == DEMO
    assert json.loads(checkpoint.metadata["config"])["transformer"]["audio_inject_layers"] == [0, 2]


@pytest.fixture(scope="module")
def vae():
    assert BUNDLE.vae
    return load_wan_vae(open_checkpoint(BUNDLE.vae).tensors, dtype=torch.float32)


@pytest.fixture(scope="module")
def audio() -> AvatarAudio:
    assert BUNDLE.wav2vec2
    encoder = load_wav2vec2(open_checkpoint(BUNDLE.wav2vec2).tensors, read_json(BUNDLE.wav2vec2 / "config.json"))
    voice = read_voice()[:, : 2 * RATE]
    with torch.inference_mode():
        return AvatarAudio(encoder.encode(voice, RATE)[None], voice, RATE)


def portrait(size: int) -> torch.Tensor:
    """[1, 3, 1, size, size] in -1..1"""
    stored = cv2.imread(str(DEMO_FOLDER / "portrait.png"))
    assert stored is not None
    face = cv2.resize(stored[:512, :, ::-1], (size, size), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(face).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1


def test_vae_takes_pictures_to_latents_of_the_right_size_and_back(vae):
    with torch.inference_mode():
        raw = vae.encode(portrait(96))
        pixels = vae.decode(from_model_space(draw(1, 1, 16, 2, 12, 12)))
    latents = to_model_space(raw)
    assert 0.2 < latents.std() < 3
    assert latents.mean().abs() < 1
    assert 0.1 < pixels.std() < 1.5
    assert pixels.abs().max() < 8


def test_voice_features_follow_the_sound(audio):
    features = audio.features[0]
    assert features.shape[0] == DEMO.audio_layers
    assert features.shape[2] == DEMO.audio_dim
    assert features.isfinite().all()
    moving = features.std(dim=1).mean(dim=-1)
    assert (moving > 0.05).all(), "some layer does not change with the sound"


@dataclass(frozen=True)
class FirstBlock:
    """Latents of the first block, with some of the conditions replaced."""

    model: CausalWanS2V
    plan: ClipPlan
    conditions: Conditions

    def sample(self, seed: int = 0, **changes: Any) -> torch.Tensor:
        conditions, plan = replace(self.conditions, **changes), replace(self.plan, seed=seed)
        with torch.inference_mode():
            return next(
                LocalExecutor(self.model, torch.device("cpu"), torch.float32).run(SamplingRequest(conditions, plan))
            ).latents


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def first_block(audio, vae) -> FirstBlock:
    plan = ClipPlan(num_clip=1, infer_frames=12, fps=Fraction(16), width=64, height=64, keep_aspect=False)
    portrait = torch.from_numpy(draw_portrait.draw()).float() / 255
    cpu = torch.device("cpu")
    reference, motion = encode_picture(PlacedVAE(vae, cpu, torch.float32), portrait, plan, DEMO.motion_frames[1])
    conditions = Conditions(
        text=draw(1, 9, DEMO.text_dim),
        reference=reference,
        motion=motion,
        audio=AlignedAudio(audio, plan.fps),
    )
    return FirstBlock(load_transformer(BUNDLE.model, dtype=torch.float32), plan, conditions)


class Silence:
    def frames(self, first: int, count: int) -> torch.Tensor:
        return torch.zeros(1, DEMO.audio_layers, DEMO.audio_dim, count)


@pytest.mark.parametrize(
    "change",
    [
        {"reference": lambda base: base.reference.flip(-1)},
        {"motion": lambda base: base.motion.flip(-1)},
        {"text": lambda base: draw(4, *base.text.shape)},
        {"text": lambda base: torch.zeros(1, DEMO.text_dim)},
        {"audio": lambda base: Silence()},
    ],
    ids=["picture", "motion", "other prompt", "no prompt", "silence"],
)
def test_every_input_moves_the_picture(first_block, change):
    before = first_block.sample()
    after = first_block.sample(**{name: make(first_block.conditions) for name, make in change.items()})
    assert before.isfinite().all()
    assert 0.5 < before.std() < 3
    # Latents have a spread near 1: a hundredth of it is what one sees as a change of brightness.
    assert (after - before).square().mean().sqrt() > 0.01


def test_the_seed_moves_the_picture_less_than_the_conditions_do(first_block):
    """What is seen follows from picture, voice and prompt; a trained model only varies it by its noise."""
    moved = (first_block.sample(seed=1) - first_block.sample()).square().mean().sqrt()
    assert 1e-3 < moved < 0.5 * first_block.sample().std()


def test_text_model_reads_any_language():
    assert BUNDLE.tokenizer
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(BUNDLE.tokenizer))
    assert tokenizer.get_piece_size() == architecture.TEXT_ENCODER["vocab_size"]
    assert (tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.unk_id()) == (0, 1, 2)
    for text in ("A woman is talking.", "一个人正在说话。", "Женщина говорит.", "彼女は話している", "🙂 تتحدث"):
        ids = tokenizer.encode(text)
        assert tokenizer.unk_id() not in ids
        assert tokenizer.decode(ids) == text
