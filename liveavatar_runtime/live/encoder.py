"""The encoder of a live video: each picture becomes a packet at once, none waits for a later one."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from ..duration import FRAMES_PER_BLOCK, samples_for_frames
from ..errors import MachineError, reason_of, replaced
from ..media.codecs import PIXEL_FORMATS
from ..media.picture_conversion import PictureConverter
from ..media.sound import FALLBACK_RATE, SoundTrack
from ..media.thread_priority import ordinary_priority
from ..media.video import BT709, LIMITED_RANGE, AudioTrack, PictureTrack
from .packets import SOUND_AHEAD, Packet, Tracks

LIVE_CRF = 21
BITS_PER_PIXEL = 0.2
"""At most, of a second; a scene that needs more is encoded less finely, as it has to pass through a network."""
LEAST_BITS = 600_000
SMALL_PICTURE = 640 * 480
"""Pixels up to which dividing the picture between threads costs more than it gains."""


def gop_frames(fps: Fraction) -> int:
    """Frames from a keyframe to the next one: whole blocks, about a second, so that no block has one in its middle."""
    return FRAMES_PER_BLOCK * max(1, round(fps / FRAMES_PER_BLOCK))


class VideoEncoder:
    """H.264 without B-frames or lookahead, and AAC at 48 kHz.

    picture: width, height and fps of the pictures, which are uint8 RGB; crf: None for `LIVE_CRF`. sound: of the
    samples given; None for a silent video. Raises MachineError when this machine cannot encode.
    """

    def __init__(self, picture: PictureTrack, sound: AudioTrack | None) -> None:
        import av
        from av.error import FFmpegError

        self.fps = picture.fps
        self.frames = 0
        pixels = PIXEL_FORMATS["yuv420p"]
        self._converter = PictureConverter(pixels, picture.width, picture.height)
        self._sound: SoundTrack | None = None
        with replaced((FFmpegError, OSError), _not_begun), ordinary_priority():
            # Its muxer is never given anything: the packets go to those of the outputs.
            self._container: Any = av.open("-", "w", format="null")
            self._picture = self._container.add_stream("libx264", rate=picture.fps)
            _set_up_picture(self._picture, picture)
            if sound is not None:
                self._sound = SoundTrack(self._container, FALLBACK_RATE, sound.channels)
                _headers_apart(self._sound.stream)
            self._container.start_encoding()
        self.tracks = Tracks(self._picture, self._sound and self._sound.stream, picture.fps, gop_frames(picture.fps))

    def checked(self, frames: Any) -> np.ndarray:
        """Pictures uint8 [T, H, W, 3], of torch or NumPy, as an array. Raises InputError for others."""
        return self._converter.checked(frames)

    def add_sound(self, samples: np.ndarray) -> None:
        """Float32 [C, S] that follow those before; they wait for their pictures. Raises InputError for others."""
        assert self._sound is not None
        self._sound.append(samples)

    def encode(self, picture: np.ndarray) -> Iterator[Packet]:
        """Packets of the sound up to the end of a picture [H, W, 3], as far as it is there, and of the picture."""
        yield from self.encode_sound()
        frame = self._converter.frame(picture)
        frame.pts, frame.time_base = self.frames, 1 / self.fps
        self.frames += 1
        for packet in self._picture.encode(frame):
            yield Packet(bytes(packet), packet.pts, 1, is_picture=True, is_key=packet.is_keyframe)

    def encode_sound(self) -> Iterator[Packet]:
        """Of what has come for the picture that is next, and some more."""
        if self._sound is not None:
            end = samples_for_frames(self.frames + 1, self.fps, self._sound.sample_rate) + SOUND_AHEAD
            yield from self._sound_packets(self._sound.frames_until(end))

    def fill_sound(self) -> Iterator[Packet]:
        """Puts silence where the sound of the pictures encoded so far is missing."""
        if self._sound is not None:
            end = samples_for_frames(self.frames, self.fps, self._sound.sample_rate)
            yield from self._sound_packets(self._sound.frames_until(end, fill=True))

    def finish(self) -> Iterator[Packet]:
        """The last packets of the sound; the pictures have none left."""
        yield from self.fill_sound()
        if self._sound is not None:
            yield from self._sound_packets([*self._sound.rest(), None])

    def _sound_packets(self, frames: list[Any]) -> Iterator[Packet]:
        assert self._sound is not None
        for frame in frames:
            for packet in self._sound.stream.encode(frame):
                yield Packet(bytes(packet), packet.pts, packet.duration, is_picture=False)


def _set_up_picture(stream: Any, picture: PictureTrack) -> None:
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
    pixels = picture.width * picture.height
    most = max(LEAST_BITS, int(pixels * float(picture.fps) * BITS_PER_PIXEL))
    stream.options = {
        "preset": "veryfast",
        "tune": "zerolatency",
        "crf": str(LIVE_CRF if picture.crf is None else picture.crf),
        "maxrate": str(most),
        "bufsize": str(most),
        "threads": "1" if pixels <= SMALL_PICTURE else "4",
        "x264-params": "scenecut=0",
    }
    context = stream.codec_context
    context.gop_size = gop_frames(picture.fps)
    context.color_range = LIMITED_RANGE
    context.color_primaries = context.color_trc = context.colorspace = BT709
    _headers_apart(stream)


def _headers_apart(stream: Any) -> None:
    """As all outputs want it, while this stream's own muxer does not ask for it."""
    from av.codec.context import Flags

    stream.codec_context.flags |= int(Flags.global_header)


def _not_begun(error: Exception) -> MachineError:
    return MachineError(
        f"This machine cannot encode live video: {reason_of(error)}. Install PyAV's own wheel (pip install "
        "--force-reinstall av)."
    )
