"""Duration Calc at work: how long a connected voice is, and what a video of a length will take on this machine."""

from typing import TYPE_CHECKING, Any, NamedTuple

from liveavatar_runtime.errors import InputError

from .audio_input import read_audio

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice

SOURCES = {
    "observed": "measured on this machine",
    "measured": "measured on this kind of card",
    "published": "from published figures",
    "assumed": "estimated from the card's data sheet",
}
"""What is said of where a speed comes from."""


class VoiceLength(NamedTuple):
    """A voice's samples, and how many of them are a second."""

    samples: int
    sample_rate: int


def voice_length(audio: object | None, avatar_audio: "Voice | None") -> VoiceLength | None:
    """Of the one that is connected, an AUDIO or an encoded voice. Raises InputError for both, and for no sound."""
    if audio is not None and avatar_audio is not None:
        raise InputError("audio and avatar_audio are both connected, and a video has one voice. Disconnect one.")
    sound = avatar_audio if avatar_audio is not None else None if audio is None else read_audio(audio)
    return None if sound is None else VoiceLength(sound.waveform.shape[1], sound.sample_rate)


def estimates(plan: dict[str, Any], frames: int, seconds: float) -> list[str]:
    """What the 14B model takes for so many frames, which last so long. plan: size, steps, infer_frames, as
    `page_sizes.SizeQuestion.of` reads them, which raises InputError."""
    from liveavatar_runtime.planning.estimates import estimate_text, file_rates, making_time

    from .page_sizes import selected_cost

    cost = selected_cost({"plan": plan})
    here, shape = cost.here, cost.work.plan
    size, device = f"{shape.width}x{shape.height}", "the processor" if cost.known.name == "cpu" else cost.known.name
    file = file_rates(shape.width, shape.height).text(frames, seconds)
    lines = [f"File: about {file} at {size} (h264, crf 18)"]
    if here is None or not here.fits:
        return [*lines, f"Time on {device}: none, as {size} does not fit there with the 14B model in bf16"]
    if here.source == "unknown" or here.fps is None or here.first_block is None:
        return [*lines, f"Time on {device}: not known, as its speed is not"]
    time = estimate_text(making_time(frames, here.fps, here.first_block))
    told = f"about {time} with the 14B model in bf16, {shape.steps} steps ({SOURCES[here.source]})"
    return [*lines, f"Time on {device}: {told}"]
