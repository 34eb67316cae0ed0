"""What the model hears: encoded sound, aligned with video frames on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
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
    frames_for_samples,
)
from ..errors import InputError
from ..fingerprint import Fingerprint
from ..progress import Progress
from .bounded import HeardSound, at_fixed_times, settled_video_frames
from .disk_backed import zeros
from .waveform import resample
from .windows import EncodedWindows

if TYPE_CHECKING:
    from ..checkpoint.content import Content


@dataclass(frozen=True, eq=False)
class AvatarAudio:
    """Encoded sound of one or several actors, and the sound itself.

    features: [A, L, T, D], all hidden states of the audio encoder at 50 Hz for A actors, on the CPU, in any float
        type. Wav2vec2-large gives 5 MB a second; of a long track they lie in a file (`disk_backed.zeros`).
    waveform: [C, S] float32 on the CPU, what goes into the video file; all actors mixed.
    sample_rate: samples a second of `waveform`.
    lengths: valid feature frames of each actor; () means all T.
    windows: of a long track of one actor, what encodes it as its frames are needed; `features` look into its states.
    sound_key: of such a track, hash of what decides its features, be they there or not: sound, encoder, windows.
    heard: of a voice with bounded context, the sound of each actor, and what of it decides which features; such a
        voice can go on, and what was settled of it stays (`settled_frames`). () for a voice that is encoded as a whole.
    """

    features: Tensor
    waveform: Tensor
    sample_rate: int
    lengths: tuple[int, ...] = ()
    windows: EncodedWindows | None = None
    sound_key: str = ""
    heard: tuple[HeardSound, ...] = ()

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
        """Number of speakers."""
        return self.features.shape[0]

    @property
    def duration(self) -> Fraction:
        """Seconds of the waveform."""
        return Fraction(self.waveform.shape[1], self.sample_rate)

    def video_frames(self, fps: Fraction) -> int:
        """Fewest video frames that have the sound of the whole waveform, at least 1."""
        return frames_for_samples(self.waveform.shape[1], fps, self.sample_rate)

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
        """Have what video frames [first_frame, first_frame + num_frames) hear encoded."""
        if self.windows is None or not num_frames:
            return
        ends = [bucket_index(frame, fps) for frame in (first_frame, first_frame + num_frames - 1)]
        if self.heard:
            first, end = (fixed_bucket_position(bucket)[0] for bucket in ends)
            self.encode(first, end + 2, progress)
            return
        count, last = bucket_count(self.features.shape[2]), self.features.shape[2] - 1
        first, end = (min(bucket, count - 1) * last // max(count - 1, 1) for bucket in ends)
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
        """For each of the first `blocks` blocks of a video, also after the voice's end, a hash of what decides its
        features: the sound that it hears, the encoder, the windows. None for a voice that is encoded as a whole.

        A longer voice has the same keys for blocks of settled frames. Nothing is encoded, but where the encoder's
        weights cannot be read: there the features themselves are hashed.
        """
        if not self.heard:
            return None
        keys: list[str] = []
        for first in range(0, blocks * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK):
            key = Fingerprint()
            if all(sound.encoder for sound in self.heard):
                buckets = [bucket_index(frame, fps) for frame in range(first, first + FRAMES_PER_BLOCK)]
                key.add("sounds", [sound.block_key(buckets) for sound in self.heard])
            else:
                key.add("features", self.aligned(first, FRAMES_PER_BLOCK, fps))
            keys.append(key.hexdigest())
        return tuple(keys)

    def aligned(self, first_frame: int, num_frames: int, fps: Fraction) -> Tensor:
        """Features of video frames [first_frame, first_frame + num_frames): [A, L, D, num_frames] float32.

        Features are interpolated linearly from 50 to 30 a second (ends on ends; of a bounded voice at fixed times),
        each frame takes the nearest of these, and frames after the end of an actor's track are zero. Only the asked
        frames are computed, and a frame's values don't depend on which others are asked for.
        """
        if first_frame < 0 or num_frames < 0:
            raise ValueError(f"frames [{first_frame}, {first_frame + num_frames}) are not a range of video frames")
        self.encode_frames(first_frame, num_frames, fps)
        if self.windows is not None and self.windows.broken:
            raise InputError(broken_text(self.windows.broken, self.features.numel()))
        indices = [bucket_index(frame, fps) for frame in range(first_frame, first_frame + num_frames)]
        lengths = self.lengths or (self.features.shape[2],) * self.actors
        actors, layers, _, width = self.features.shape
        aligned = torch.zeros(actors, layers, width, num_frames)
        for track, length, result in zip(self.features, lengths, aligned, strict=True):
            buckets = fixed_bucket_count(length) if self.heard else bucket_count(length)
            heard = [index for index in indices if index < buckets]
            if self.heard:
                result[..., : len(heard)] = at_fixed_times(track[:, :length], heard).transpose(1, 2)
            else:
                result[..., : len(heard)] = interpolate(track[:, :length], heard, buckets).transpose(1, 2)
        return aligned

    @staticmethod
    def stack(tracks: Sequence["AvatarAudio"]) -> "AvatarAudio":
        """One track a speaker, in the order of their masks: features side by side, sound mixed.

        Shorter tracks end in silence (zero features). The mix has the first track's sample rate and the most
        channels, and is turned down only where the sum would clip. Raises InputError when the tracks come from
        different audio encoders, or only some of them have bounded context.
        """
        if not tracks:
            raise InputError("no audio tracks were given; at least one is needed.")
        widths = {(track.features.shape[1], track.features.shape[3]) for track in tracks}
        if len(widths) > 1:
            raise InputError(
                f"the audio tracks come from different audio encoders: (layers, width) are {sorted(widths)}. "
                "Encode all of them with the same one."
            )
        heard = tuple(sound for track in tracks for sound in track.heard)
        if heard and not all(track.heard for track in tracks):
            raise InputError("only some of the audio tracks have bounded context. Encode all with the same context.")
        longest = max(track.features.shape[2] for track in tracks)
        actors = sum(track.actors for track in tracks)
        (layers, width), dtype = widths.pop(), tracks[0].features.dtype
        features = zeros((actors, layers, longest, width), dtype)
        lengths: list[int] = []
        for track in tracks:
            track.encode(0, track.features.shape[2])
            rows = slice(len(lengths), len(lengths) + track.actors)
            features[rows, :, : track.features.shape[2]] = track.features
            lengths += track.lengths or (track.features.shape[2],) * track.actors
        return AvatarAudio(features, _mix(tracks), tracks[0].sample_rate, tuple(lengths), heard=heard)


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


def _mix(tracks: Sequence[AvatarAudio]) -> Tensor:
    """Sum of the tracks' sound [C, S] at the first one's sample rate."""
    sounds = [resample(track.waveform, track.sample_rate, tracks[0].sample_rate) for track in tracks]
    channels = max(sound.shape[0] for sound in sounds)
    mixed = torch.zeros(channels, max(sound.shape[1] for sound in sounds))
    loudest = 1.0
    for sound in sounds:
        if sound.shape[0] not in (1, channels):
            raise InputError(
                f"audio tracks with {sound.shape[0]} and {channels} channels cannot be mixed; make them mono or stereo."
            )
        mixed[:, : sound.shape[1]] += sound
        loudest = max(loudest, float(sound.abs().max()))
    peak = float(mixed.abs().max())
    return mixed * (loudest / peak) if peak > loudest else mixed
