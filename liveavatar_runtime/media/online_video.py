"""A stream of latent blocks to a video file with sound, written while it is made."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..audio.features import AvatarAudio
from ..planning.duration import samples_for_frames
from ..sampling.latent_stream import LatentStream
from .images import to_float_frames, to_uint8_frames
from .video import VideoWriter

if TYPE_CHECKING:
    from ..vae.online_decoder import OnlineDecoder, VideoStart

OnFrames = Callable[[int, int], None]
"""Called as (frames written, frames in all) after each block; may raise to stop."""


@dataclass
class OnlineVideo:
    """What has been written: `frames`, the last one [H, W, 3] and, if asked for, all of them, float 0..1."""

    path: Path
    frames: int = 0
    last_frame: Tensor | None = None
    kept: list[Tensor] = field(default_factory=list)


def skipped_frames(start: "VideoStart") -> int:
    from ..vae.online_decoder import START_FRAMES

    return START_FRAMES if start == "trim" else 0


def write_online(
    stream: LatentStream,
    decoder: "OnlineDecoder",
    audio: AvatarAudio,
    writer: VideoWriter,
    video: OnlineVideo,
    skipped: int = 0,
    keep_frames: bool = False,
    on_frames: OnFrames | None = None,
) -> None:
    """Decode block by block into `writer`; `video` is brought up to date after each, also when this raises.

    The sound of every frame goes into the file with it; past the end of the track the writer puts silence. `skipped`
    leading frames are not in the picture, so their sound is left out as well.
    """
    total = stream.plan.frames - skipped
    # Closed at once when something here fails: a traceback would keep the sampler, and with it the device's memory.
    with closing(iter(stream)) as blocks:
        for block in blocks:
            pixels = decoder.decode(block.latents)
            end = video.frames + pixels.shape[1]
            writer.write_frames(to_uint8_frames(pixels))
            writer.write_audio(sound_of_frames(audio, stream.plan.fps, video.frames + skipped, end + skipped))
            video.frames = end
            video.last_frame = to_float_frames(pixels[:, -1:])[0]
            if keep_frames:
                video.kept.append(to_float_frames(pixels))
            if on_frames is not None:
                on_frames(video.frames, total)


def sound_of_frames(audio: AvatarAudio, fps: Fraction, first: int, end: int) -> Tensor:
    """Waveform [C, S] of video frames [first, end); shorter where the track is over."""
    return audio.waveform[:, slice(*(samples_for_frames(frame, fps, audio.sample_rate) for frame in (first, end)))]
