"""The parts of a joined video: what is in each, whether they fit together, and their sound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .codecs import PIXEL_FORMATS
from .frames import opened, pixel_format_of
from .sound import LAYOUTS

# Matroska tells times in milliseconds; sound that is off by no more than this follows what was before.
TIME_TOLERANCE = Fraction(1, 400)
REENCODE_ADVICE = "Make all parts with the same settings, or turn on reencode to encode the picture again."
BACKGROUNDS = {False: "opaque", True: "transparent"}
SAME_ADVICE = "All parts must have it; make that part again with the settings of the others."


@dataclass(frozen=True)
class Part:
    """A video file that is to be joined. `name` is how messages call it.

    `regular`: every frame has its place in a constant frame rate, nothing is hidden, and the first is a keyframe.
    """

    name: str
    path: Path
    frames: int
    fps: Fraction
    width: int
    height: int
    codec: str
    pixel_format: str
    extradata: bytes
    start: Fraction
    regular: bool
    metadata: dict[str, str]
    sample_rate: int | None = None
    channels: int | None = None
    has_alpha: bool = False


def read_part(name: str, path: str | Path) -> Part:
    """Looks through a file's packets; nothing is decoded. Raises InputError when it is not a video."""
    with opened(path) as container:
        picture: Any = container.streams.video[0]
        if not picture.average_rate:
            raise InputError(f"{name} ({path}) has no frame rate. Give a video.")
        fps = Fraction(picture.average_rate)
        counted, start, regular = _count(container, picture, fps)
        if not counted:
            raise InputError(f"{name} ({path}) has no frames. Give a video with at least one frame.")
        sound: Any = next((s for s in container.streams.audio if s.codec_context is not None), None)
        context = picture.codec_context
        return Part(
            name=name,
            path=Path(path),
            frames=counted,
            fps=fps,
            width=context.width,
            height=context.height,
            codec=context.codec.canonical_name,
            pixel_format=pixel_format_of(picture),
            has_alpha=any(
                known.name == pixel_format_of(picture) and known.has_alpha for known in PIXEL_FORMATS.values()
            ),
            extradata=bytes(context.extradata or b""),
            start=start,
            regular=regular,
            metadata=dict(container.metadata),
            sample_rate=sound.rate if sound else None,
            channels=sound.layout.nb_channels if sound else None,
        )


def _count(container: Any, picture: Any, fps: Fraction) -> tuple[int, Fraction, bool]:
    """Frames, time of the first one, and whether each of them has its own place in the frame rate."""
    places: list[Fraction] = []
    whole = True
    for packet in container.demux(picture):
        if not packet.size:
            continue
        if packet.pts is None:
            return len(places) + 1, Fraction(0), False
        whole = whole and not packet.is_discard and (bool(places) or packet.is_keyframe)
        places.append(packet.pts * picture.time_base)
    start = min(places, default=Fraction(0))
    off = [abs((time - start) * fps - number) for number, time in enumerate(sorted(places))]
    return len(places), start, whole and all(distance < Fraction(1, 4) for distance in off)


def check_parts(parts: Sequence[Part], copy: bool) -> None:
    """Raises InputError, naming the part, unless all fit the first one.

    With `copy` the encoded pictures must go behind each other as they are; without, only sizes and frame rates must
    be equal. The sound need not match: it is made anew.
    """
    if not parts:
        raise InputError("There are no parts to join. Connect at least one video.")
    first = parts[0]
    for part in parts[1:]:
        _check_same(part, first, "size", lambda part: f"{part.width}x{part.height}", SAME_ADVICE)
        _check_same(part, first, "frame rate", lambda part: part.fps, SAME_ADVICE)
        _check_same(part, first, "background", lambda part: BACKGROUNDS[part.has_alpha], SAME_ADVICE)
    if not copy:
        return
    for part in parts:
        if not part.regular:
            raise InputError(
                f"{part.name} ({part.path.name}) has frames that are hidden, missing or unevenly timed, so it "
                "cannot be copied. Turn on reencode to encode the picture again."
            )
        _check_same(part, first, "codec", lambda part: part.codec, REENCODE_ADVICE)
        _check_same(part, first, "pixel format", lambda part: part.pixel_format, REENCODE_ADVICE)
        if part.extradata != first.extradata:
            raise InputError(
                f"{part.name} ({part.path.name}) was encoded with other settings than {first.name} (crf, preset or "
                f"encoder): {part.codec} of both kinds cannot be in one file. {REENCODE_ADVICE}"
            )


def _check_same(part: Part, first: Part, what: str, of: Callable[[Part], object], advice: str) -> None:
    mine, wanted = of(part), of(first)
    if mine != wanted:
        raise InputError(
            f"{part.name} ({part.path.name}) does not fit: its {what} is {mine}, {first.name} has {wanted}. {advice}"
        )


class PartSound:
    """The sound of one part as exactly `samples` samples, whatever its encoder put before and behind.

    Players hide the samples that AAC and Opus add in front; the file says which. Here they are dropped, what is
    missing is silence, what is too long is cut, so that parts follow each other without gap or overlap. Mono that
    becomes stereo keeps its level on both sides.
    """

    def __init__(self, start: Fraction, samples: int, sample_rate: int, channels: int) -> None:
        self._start, self._samples, self._rate, self._channels = start, samples, sample_rate, channels
        self._given = 0
        self._resampler: Any = None

    def of_frame(self, frame: Any) -> np.ndarray:
        """What a decoded frame adds, float32 [C, S]; may be empty."""
        place = self._given
        if frame.pts is not None:
            time = frame.pts * frame.time_base - self._start
            if abs(time - Fraction(self._given, self._rate)) > TIME_TOLERANCE:
                place = round(time * self._rate)
        return self._at(place, self._resampled(frame))

    def rest(self) -> np.ndarray:
        """What is missing at the end."""
        heard = self._at(self._given, self._resampled(None) if self._resampler else [])
        silence = np.zeros((self._channels, self._samples - self._given), np.float32)
        self._given = self._samples
        return np.concatenate([heard, silence], axis=1)

    def _resampled(self, frame: Any) -> list[np.ndarray]:
        """Float32 [C, S] pieces; the resampler mixes more channels down, but would make doubled ones quieter."""
        import av

        if self._resampler is None:
            layout = LAYOUTS[min(self._channels, frame.layout.nb_channels)]
            self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=self._rate)
        pieces = [part.to_ndarray() for part in self._resampler.resample(frame)]
        return [np.broadcast_to(piece, (self._channels, piece.shape[1])) for piece in pieces]

    def _at(self, place: int, pieces: list[np.ndarray]) -> np.ndarray:
        samples = np.concatenate(pieces, axis=1) if pieces else np.zeros((self._channels, 0), np.float32)
        if not samples.shape[1]:
            return samples
        gap = min(max(place - self._given, 0), self._samples - self._given)
        heard = samples[:, max(self._given - place, 0) :][:, : self._samples - self._given - gap]
        self._given += gap + heard.shape[1]
        return np.concatenate([np.zeros((self._channels, gap), np.float32), heard], axis=1)


def sound_stream(container: Any) -> Any:
    """The sound that is joined: the first that can be decoded."""
    return next(stream for stream in container.streams.audio if stream.codec_context is not None)
