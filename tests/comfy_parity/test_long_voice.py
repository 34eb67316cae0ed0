"""A voice of several minutes: what of it is encoded, and what names its video, in ComfyUI's process."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.sampling.conditions import AlignedAudio, Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Prepared
from liveavatar_runtime.sampling.video_key import Numerics

ROOT = Path(__file__).parents[2]
PLAN = ClipPlan(num_clip=1, infer_frames=12, width=64, height=64)
NUMERICS = Numerics("float32", "float32")


@pytest.fixture(scope="module")
def voice_of(pack: ModuleType) -> Any:
    """Encodes a tone of so many seconds with the demo's audio encoder."""
    bridge = importlib.import_module(f"{pack.__name__}.comfy_bridge.voice")
    parts = importlib.import_module(f"{pack.__name__}.comfy_bridge.bundle_parts")
    notes = importlib.import_module(f"{pack.__name__}.comfy_bridge.notes")
    encoder = parts.load_bundle_audio_encoder(find_bundle(ROOT / "demo" / "liveavatar-demo"))

    def encode(seconds: int, context: str = "whole") -> AvatarAudio:
        tone = 0.3 * torch.sin(torch.arange(seconds * 16000) * 0.05 * (1 + torch.arange(seconds * 16000) / 1e7))
        audio = {"waveform": tone[None, None], "sample_rate": 16000}
        return bridge.encode_voice(encoder, audio, SimpleNamespace(unique_id="1", prompt=None), notes.Notes(), context)

    return encode


@pytest.fixture
def spools(pack: ModuleType, tmp_path, monkeypatch) -> Any:
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    return importlib.import_module(f"{pack.__name__}.comfy_bridge.spool_folder")


def prepared() -> Prepared:
    zeros = torch.zeros(16, 1, 8, 8)
    silence = AvatarAudio(torch.zeros(1, 1, 10, 4), torch.zeros(1, 3200), 16000)
    heard = AlignedAudio(silence, PLAN.fps)
    conditions = Conditions(text=torch.zeros(4, 8), reference=zeros, motion=zeros, audio=heard)
    return Prepared(conditions, zeros, PLAN, ())


def keep_a_clip(spools, voice: str, facts: dict[str, object]) -> str:
    video = spools.NamedVideo("weights", prepared(), voice)
    spool = spools.store().open(video.key(NUMERICS), facts)
    assert spool.try_lock()
    spool.write_clip(0, torch.zeros(16, 3, 8, 8))
    spool.unlock()
    return video.key(NUMERICS)


def test_a_short_voice_is_encoded_whole(voice_of):
    assert voice_of(2).windows is None


def test_its_key_tells_sounds_and_encoders_apart(pack):
    key = importlib.import_module(f"{pack.__name__}.comfy_bridge.voice").sound_key
    sound, weights = torch.ones(1, 1000), {"a": torch.ones(3)}
    same, *others = (
        key(*given)
        for given in (
            (sound.clone(), {"a": torch.ones(3)}),
            (torch.ones(1, 1001), weights),
            (2 * sound, weights),
            (sound, {"a": torch.zeros(3)}),
            (sound, {"b": torch.ones(3)}),
        )
    )
    assert same == key(sound, weights) and len({same, *others}) == 5


def test_a_long_voice_is_encoded_as_far_as_its_video_needs_and_older_spools_are_found(spools, voice_of):
    voice = voice_of(70)
    assert voice.windows.encoded == 1 and voice.sound_key

    def named() -> str:
        return spools.named_video("weights", prepared(), voice, NUMERICS).voice

    assert named() == voice.sound_key
    # Spools of other plans, and those whose voice is named by its sound, cannot be of an earlier version.
    keep_a_clip(spools, "of another voice", {**spools.about(PLAN), spools.VOICE: spools.LONG})
    keep_a_clip(spools, "of another plan", spools.about(replace(PLAN, seed=1)))
    assert named() == voice.sound_key and voice.windows.encoded == 1
    # One that may be has to be compared.
    keep_a_clip(spools, "of another video", spools.about(PLAN))
    assert named() == voice.sound_key and voice.windows.encoded == 2
    keep_a_clip(spools, voice.features_fingerprint, spools.about(PLAN))
    assert named() == voice.features_fingerprint
    # Whatever was begun under the new name goes on under it.
    keep_a_clip(spools, voice.sound_key, {**spools.about(PLAN), spools.VOICE: spools.LONG})
    assert named() == voice.sound_key


def test_a_bounded_voice_is_named_by_its_sound_and_goes_on(voice_of):
    """Of any length; with clips of earlier versions it has nothing to do."""
    part, longer = voice_of(4, "bounded"), voice_of(6, "bounded")
    assert part.windows.encoded == 1 and part.fingerprint == part.sound_key != longer.sound_key
    settled = part.settled_frames(PLAN.fps)
    blocks = settled // 12
    assert blocks == 2 and part.heard_keys(PLAN.fps, blocks) == longer.heard_keys(PLAN.fps, blocks)
    assert torch.equal(part.aligned(0, settled, PLAN.fps), longer.aligned(0, settled, PLAN.fps))
    with pytest.raises(InputError, match="context is 'half'; allowed are whole, bounded"):
        voice_of(2, "half")
