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
        "a size that the model does not know",
        "LiveAvatar_DiTSampler",
        "only knows 64x64 pixels, and the video is 128x128: it will look wrong",
        plan={"width": 128, "height": 128},
        build=lambda prompt: prompt.set("LiveAvatar_AudioEncode", audio=short_sound(prompt, seconds=0.7)),
    ),
    Told(
        "a size by its name",
        "LiveAvatar_ClipScheduler",
        "size 384x256: the video has exactly this size.*width, height and keep_aspect are not used",
        plan={"size": "384x256"},
        build=lambda prompt: only_plan(prompt),
    ),
    Told(
        "a clip length that is no multiple of 12",
        "LiveAvatar_ClipScheduler",
        r"infer_frames is 50.*multiple of 12.*60 or 48",
        plan={"infer_frames": 50},
        refused=True,
    ),
]


def only_plan(prompt) -> None:
    """Nothing but Clip Scheduler runs."""
    scheduler = prompt.id("LiveAvatar_ClipScheduler")
    prompt.nodes = {scheduler: prompt.nodes[scheduler]}
    prompt.add("look", "PreviewAny", source=[scheduler, 0])


def short_sound(prompt, seconds: float) -> list:
    """Silence of so many seconds, from a node of ComfyUI."""
    prompt.add("short_sound", "EmptyAudio", duration=seconds, sample_rate=16000, channels=1)
    return ["short_sound", 0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_told(server, short_clip, case):
    check_told(case, server, short_clip(**{**SMALL, **case.plan}))
