"""Takes in a real ComfyUI: what is sampled for them, counted, and what stays."""

import numpy as np
import pytest
from comfy_client import PromptRefused
from test_spool import SMALL, latents, sampled, with_latents

FRAMES = 3
"""Latent frames of a clip."""


def run(server, short_clip, prefix: str, **widgets) -> tuple[np.ndarray, int, str]:
    """Latents, blocks that were sampled, and what the sampler and who took its blocks told."""
    prompt = with_latents(short_clip(**SMALL, seed=860, **widgets), prefix)
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    told = [result.told(prompt.id(f"LiveAvatar_{name}")) for name in ("DiTSampler", "OnlineVAEDecode")]
    return latents(server, prefix), sampled(result, prompt), "\n".join(told)


def test_takes_sample_what_they_name_and_going_back_samples_nothing(server, short_clip):
    first, blocks, _ = run(server, short_clip, "takes-first")
    assert blocks == 4
    on, blocks, told = run(server, short_clip, "takes-on", takes="3-: 1")
    assert blocks == 2 and "From clip 3 on the video is take 1" in told and "2 of 4 clips are finished" in told
    assert np.array_equal(on[:, :, : 2 * FRAMES], first[:, :, : 2 * FRAMES])
    assert not np.array_equal(on[:, :, 2 * FRAMES : 3 * FRAMES], first[:, :, 2 * FRAMES : 3 * FRAMES])
    alone, blocks, told = run(server, short_clip, "takes-alone", takes="2: 5")
    assert blocks == 1 and "Clip 2 alone is take 5" in told and "the step into clip 3 is" in told
    changed = np.abs(alone - first).max(axis=(0, 1, 3, 4)) > 0
    assert changed[FRAMES : 2 * FRAMES].all() and not changed[:FRAMES].any() and not changed[2 * FRAMES :].any()
    for prefix, takes, expected in (("back", "", first), ("alone-again", "2: 5", alone)):
        again, blocks, _ = run(server, short_clip, f"takes-{prefix}", takes=takes)
        assert blocks == 0 and np.array_equal(again, expected), takes


def test_takes_that_cannot_be_meant_are_refused_or_told(server, short_clip):
    with pytest.raises(PromptRefused, match="takes has 'clip 2'; write '5-: 2' for take 2"):
        server.client.run(short_clip(**SMALL, takes="clip 2").nodes)
    _, _, told = run(server, short_clip, "takes-beyond", takes="9: 1")
    assert "takes names clip 9, and the video has 4 clips: it is not used" in told


SCRIPT, SAMPLER, ENCODER = "LiveAvatar_AvatarScript", "LiveAvatar_DiTSampler", "LiveAvatar_AudioEncode"
BLUE, RED, GREEN = (f"A friendly person talks to the camera in front of a {c} wall." for c in ("blue", "red", "green"))


def direct(server, short_clip, prefix: str, text: str, **widgets) -> tuple[np.ndarray, int]:
    """Latents of four clips of two blocks by a script, in a spool that is kept, and blocks that were sampled."""
    prompt = with_latents(short_clip(**{**SMALL, "infer_frames": 24, "seed": 861, **widgets}), prefix)
    prompt.add("script", SCRIPT, script=text, clip=[prompt.id("LiveAvatar_LoadAvatarModel"), 1])
    prompt.set(SAMPLER, script=["script", 0])
    result = server.client.run(prompt.nodes)
    result.raise_for_error()
    return latents(server, prefix), sampled(result, prompt)


def test_a_changed_line_keeps_the_clips_before_it(server, short_clip):
    text = f"0:00 {BLUE}\n0:03 {RED}"
    first, blocks = direct(server, short_clip, "line-first", text)
    assert blocks == 8
    other, blocks = direct(server, short_clip, "line-other", text.replace(RED, GREEN))
    assert blocks == 4 and np.array_equal(other[:, :, :12], first[:, :, :12]) and not np.array_equal(other, first)
    _, blocks = direct(server, short_clip, "line-take", text, takes="4-: 1")
    assert blocks == 2, "of the first script, clip 4 again"
    parts = []
    for index in (0, 1):
        part, blocks = direct(server, short_clip, f"line-{index}", text, segment_clips=2, segment_index=index)
        parts.append(part)
        assert blocks == 0
    assert np.array_equal(np.concatenate(parts, axis=2), first)


def test_a_longer_voice_samples_only_what_is_new(server, short_clip):
    """With bounded context the features of what was said stay."""
    made = []
    for name, seconds in (("short", 3.0), ("long", 6.0)):
        prompt = with_latents(short_clip(**{**SMALL, "num_clip": 0, "seed": 862}), f"voice-{name}")
        prompt.add("trim", "TrimAudioDuration", audio=[prompt.id("LoadAudio"), 0], start_index=0.0, duration=seconds)
        prompt.set(ENCODER, audio=["trim", 0], context="bounded")
        result = server.client.run(prompt.nodes)
        result.raise_for_error()
        made.append((latents(server, f"voice-{name}"), sampled(result, prompt)))
    (short, first), (long, second) = made
    assert first == short.shape[2] // FRAMES == 4 and long.shape[2] // FRAMES == 8
    # A window keeps a second and looks one ahead: of three seconds, less the encoder's last frame, the first one stays.
    assert second == 7 and np.array_equal(long[:, :, :FRAMES], short[:, :, :FRAMES])
