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
