"""What the model hears: encoded sound, aligned with video frames on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..duration import (
    FEATURE_RATE,
    FRAMES_PER_BLOCK,
    bucket_count,
    bucket_index,
    fixed_bucket_count,
    fixed_bucket_position,
)
from ..errors import InputError
from ..fingerprint import Fingerprint
from ..progress import Progress
from .bounded import HeardSound, at_fixed_times, settled_video_frames
from .encoded_silence import EncodedSilence
from .voice import Voice
from .windows import EncodedWindows

if TYPE_CHECKING:
    from ..checkpoint.content import Content


@dataclass(frozen=True, eq=False)
class AvatarAudio(Voice):
    """Encoded sound of one actor, or of several in step, and the sound itself.

    features: [A, L, T, D], all hidden states of the audio encoder at 50 Hz for A actors, on the CPU, in any float
        type. Wav2vec2-large gives 5 MB a second; of a long track they lie in a file (`disk_backed.zeros`).
    waveform: [C, S] float32 on the CPU, what goes into the video file; all actors mixed.
    sample_rate: samples a second of `waveform`.
    lengths: valid feature frames of each actor; () means all T.
    windows: of a long track of one actor, what encodes it as its frames are needed; `features` look into its states.
    sound_key: of such a track, hash of what decides its features, be they there or not: sound, encoder, windows.
    heard: of a voice with bounded context, the sound of each actor, and what of it decides which features; such a
        voice can go on, and what was settled of it stays (`settled_frames`). () for a voice that is encoded as a whole.
    silence: what its encoder makes of silence, for speakers who are silent while others speak.
    """

    features: Tensor
    waveform: Tensor
    sample_rate: int
    lengths: tuple[int, ...] = ()
    windows: EncodedWindows | None = None
    sound_key: str = ""
    heard: tuple[HeardSound, ...] = ()
    silence: EncodedSilence | None = None

    @classmethod
    def of_windows(cls, windows: EncodedWindows, sound: tuple[Tensor, int], sound_key: str) -> "AvatarAudio":
        """A long track; `sound`: its waveform [C, S] and samples a second."""
        return cls(windows.states[None], *sound, windows=windows, sound_key=sound_key)

    @classmethod
    def of_bounded(cls, windows: EncodedWindows, heard: HeardSound) -> "AvatarAudio":
        """A track with bounded context."""
        sound_key = heard.key if heard.encoder else ""
        return cls(windows.states[None], heard.waveform, heard.sample_rate, (), windows, sound_key, (heard,))

    def __post_init__(self) -> None:
        if self.features.ndim != 4 or not self.features.is_floating_point():
            raise InputError(
                f"audio features are {self.features.dtype} of shape {tuple(self.features.shape)}; "
                "they must be floats of shape [actors, layers, frames, width]."
            )
        if self.waveform.ndim != 2 or self.sample_rate <= 0:
            raise InputError(
                f"the waveform has shape {tuple(self.waveform.shape)} at {self.sample_rate} Hz; "
                "it must be [channels, samples] at a rate above 0."
            )
        actors, _, frames, _ = self.features.shape
        assert not self.heard or len(self.heard) == actors
        if self.lengths and (len(self.lengths) != actors or not all(0 <= n <= frames for n in self.lengths)):
            raise InputError(f"lengths are {self.lengths} for {actors} actors of {frames} feature frames.")

    @property
    def actors(self) -> int:
        return self.features.shape[0]

    @property
    def encoded_to(self) -> tuple[int, int]:
        return self.features.shape[1], self.features.shape[3]

    @property
    def values(self) -> int:
        return self.features.numel()

    @property
    def buckets(self) -> int:
        """30 Hz buckets until the longest track ends."""
        frames = max(self.lengths, default=self.features.shape[2])
        return fixed_bucket_count(frames) if self.heard else bucket_count(frames)

    @property
    def encoding_device(self) -> torch.device | None:
        return None if self.windows is None else self.windows.device

    @property
    def by_sound(self) -> bool:
        return bool(self.sound_key)

    @cached_property
    def content(self) -> "Content":
        """Hash of all features, and how many of them are not numbers; reads them once, encoded where they are not."""
        self.encode(0, self.features.shape[2])
        from ..checkpoint.content import InMemory, contents

        return contents({"features": InMemory(self.features)})["features"]

    @property
    def fingerprint(self) -> str:
        """Hash of what the model hears: of a long track `sound_key`, else `features_fingerprint`."""
        return self.sound_key or self.features_fingerprint

    @property
    def features_fingerprint(self) -> str:
        """Content hash of all features."""
        return Fingerprint().add("features", self.content.digest).add("lengths", list(self.lengths)).hexdigest()

    @property
    def broken(self) -> int:
        """Features that are not numbers; of a long track, of those that are encoded."""
        return self.content.broken if self.windows is None else self.windows.broken

    def encode(self, first: int, stop: int, progress: Progress | None = None) -> None:
        """Have feature frames [first, stop) encoded, where that is still to be done."""
        if self.windows is not None:
            self.windows.need(first, stop, progress)

    def encode_frames(self, first_frame: int, num_frames: int, fps: Fraction, progress: Progress | None = None) -> None:
        frames = (first_frame, first_frame + num_frames - 1) if num_frames else ()
        self.encode_buckets([bucket_index(frame, fps) for frame in frames], progress)

    def encode_buckets(self, ends: Sequence[int], progress: Progress | None = None) -> None:
        """Have the buckets from the first to the last of `ends` encoded; none for an empty one."""
        if self.windows is None or not ends:
            return
        if self.heard:
            first, end = (fixed_bucket_position(bucket)[0] for bucket in (ends[0], ends[-1]))
            self.encode(first, end + 2, progress)
            return
        count, last = bucket_count(self.features.shape[2]), self.features.shape[2] - 1
        first, end = (min(bucket, count - 1) * last // max(count - 1, 1) for bucket in (ends[0], ends[-1]))
        # One frame of room on each side: positions are computed in float32.
        self.encode(max(0, first - 1), end + 3, progress)

    @property
    def settled_duration(self) -> Fraction:
        """Seconds from the start whose features stay, as `settled_frames`."""
        return Fraction(min((sound.settled for sound in self.heard), default=0), FEATURE_RATE)

    def settled_frames(self, fps: Fraction) -> int:
        """First video frames of a voice with bounded context whose features stay as they are, to the bit, however its
        sound goes on; 0 of a voice that is encoded as a whole."""
        return min((settled_video_frames(sound.settled, fps) for sound in self.heard), default=0)

    def heard_keys(self, fps: Fraction, blocks: int) -> tuple[str, ...] | None:
        """As `Voice.heard_keys`. A longer voice has the same keys for blocks of settled frames. Nothing is encoded, but
        where the encoder's weights cannot be read: there the features themselves are hashed."""
        if not self.heard:
            return None
        firsts = range(0, blocks * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK)
        return tuple(self.heard_key(buckets_of(first, FRAMES_PER_BLOCK, fps)) for first in firsts)

    def heard_key(self, buckets: list[int]) -> str:
        """The same for a block of these buckets, of a voice with bounded context."""
        if all(sound.encoder for sound in self.heard):
            return Fingerprint().add("sounds", [sound.block_key(buckets) for sound in self.heard]).hexdigest()
        return Fingerprint().add("features", self.at_buckets(buckets)).hexdigest()

    def aligned(self, first_frame: int, num_frames: int, fps: Fraction) -> Tensor:
        """As `Voice.aligned`. Features are interpolated linearly from 50 to 30 a second (ends on ends; of a bounded
        voice at fixed times), each frame takes the nearest of these, and frames after the end of an actor's track are
        zero."""
        return self.at_buckets(buckets_of(first_frame, num_frames, fps))

    def at_buckets(self, buckets: list[int]) -> Tensor:
        """Features of 30 Hz buckets, of which those of the track ascend: [A, L, D, buckets] float32; zero before the
        track (below 0) and after its end."""
        heard = [bucket for bucket in buckets if bucket >= 0]
        self.encode_buckets(heard)
        if self.windows is not None and self.windows.broken:
            raise InputError(broken_text(self.windows.broken, self.values))
        lengths = self.lengths or (self.features.shape[2],) * self.actors
        actors, layers, _, width = self.features.shape
        aligned = torch.zeros(actors, layers, width, len(buckets))
        for track, length, result in zip(self.features, lengths, aligned, strict=True):
            count = fixed_bucket_count(length) if self.heard else bucket_count(length)
            there = [place for place, bucket in enumerate(buckets) if 0 <= bucket < count]
            read = at_fixed_times if self.heard else partial(interpolate, count=count)
            result[..., there] = read(track[:, :length], [buckets[place] for place in there]).transpose(1, 2)
        return aligned


def buckets_of(first_frame: int, num_frames: int, fps: Fraction, start: Fraction = Fraction(0)) -> list[int]:
    """Of video frames [first_frame, first_frame + num_frames), for a sound that begins at `start` seconds."""
    if first_frame < 0 or num_frames < 0:
        raise ValueError(f"frames [{first_frame}, {first_frame + num_frames}) are not a range of video frames")
    return [bucket_index(frame, fps, start) for frame in range(first_frame, first_frame + num_frames)]


def broken_text(broken: int, count: int) -> str:
    """What is told when so many of the features are no numbers."""
    return (
        f"the voice was encoded to values that are not numbers (NaN or infinite), {broken:,} of {count:,}, though its "
        "sound is: the audio encoder's weights hold such values or their format is too small. Get its file again (14B: "
        "wav2vec2_large_english), or use one in fp32."
    )


def interpolate(track: Tensor, indices: list[int], count: int) -> Tensor:
    """Entries `indices` of `track` [L, T, D] stretched to `count` frames, ends on ends: [L, n, D] float32."""
    last = track.shape[1] - 1
    # In float32 as torch.nn.functional.interpolate does it, so that tracks of any length equal the original's.
    step = torch.tensor(float(last)) / max(count - 1, 1)
    positions = step * torch.tensor(indices, dtype=torch.int64)
    low = positions.long().clamp(max=last)
    weights = (positions - low)[None, :, None]
    return track[:, low].float() * (1 - weights) + track[:, (low + 1).clamp(max=last)].float() * weights
