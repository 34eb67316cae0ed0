"""What users read when something is not as they would expect: kind -> words, on the node, through the real server."""

import pytest
from told_cases import SMALL, Told, check_told

CASES = [
    Told(
        "more clips than the voice fills",
        "LiveAvatar_DiTSampler",
        "50 was reduced to",
        plan={"num_clip": 50},
        build=lambda prompt: prompt.set("LiveAvatar_AudioEncode", audio=short_sound(prompt, seconds=1.4)),
    ),
    Told(
        "a clip length that is no multiple of 12",
        "LiveAvatar_ClipScheduler",
        r"infer_frames is 50.*multiple of 12.*60 or 48",
        plan={"infer_frames": 50},
        refused=True,
    ),
]


def short_sound(prompt, seconds: float) -> list:
    """Silence of so many seconds, from a node of ComfyUI."""
    prompt.add("short_sound", "EmptyAudio", duration=seconds, sample_rate=16000, channels=1)
    return ["short_sound", 0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_told(server, short_clip, case):
    check_told(case, server, short_clip(**{**SMALL, **case.plan}))
