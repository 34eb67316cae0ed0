"""Several speakers in one video: the encoded voice of each, when it is heard, and where in the picture they are."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from ..duration import FRAMES_PER_BLOCK, nearest_frame, sample_at
from ..errors import InputError
from ..fingerprint import Fingerprint
from ..progress import Progress
from .features import AvatarAudio, buckets_of
from .voice import Voice
from .waveform import resample

MAX_SPEAKERS = 4
SILENT = -1
"""A bucket before the beginning of every sound."""


@dataclass(frozen=True)
class Span:
    """From `first` until `stop`, seconds of the video; None: until the end. Each is at the nearest video frame."""

    first: Fraction
    stop: Fraction | None = None


@dataclass(frozen=True, eq=False)
class Speaker:
    """audio: of one actor, None for one who never speaks. start: seconds of the video at which it begins. turns: when
    it is heard, in order, None for always; between them it may hold the sound of others."""

    audio: AvatarAudio | None
    start: Fraction = Fraction(0)
    turns: tuple[Span, ...] | None = None
    _frames: dict[Fraction, list[int]] = field(default_factory=dict, repr=False)

    def buckets(self, first_frame: int, num_frames: int, fps: Fraction) -> list[int]:
        """Of the sound at video frames, `SILENT` where it is not heard."""
        buckets = buckets_of(first_frame, num_frames, fps, self.start)
        if self.audio is None:
            return [SILENT] * num_frames
        count = self.audio.buckets
        return [
            bucket if 0 <= bucket < count and self.is_heard(first_frame + place, fps) else SILENT
            for place, bucket in enumerate(buckets)
        ]

    def is_heard(self, frame: int, fps: Fraction) -> bool:
        """Whether a video frame is in one of the turns."""
        if self.turns is None:
            return True
        if fps not in self._frames:
            ends = (time for turn in self.turns for time in (turn.first, turn.stop) if time is not None)
            self._frames[fps] = [nearest_frame(time, fps) for time in ends]
        # Turns begin and end in turn.
        return bisect_right(self._frames[fps], frame) % 2 == 1

    def told(self) -> list[object]:
        """When this speaker is heard, for a hash."""
        turns = None if self.turns is None else [[str(turn.first), str(turn.stop)] for turn in self.turns]
        return [str(self.start), turns]


@dataclass(frozen=True, eq=False)
class Conversation(Voice):
    """Voices of several speakers, and the sound of all.

    speakers: in the order of their masks, of whom at least one speaks. What is encoded window by window stays so:
        nothing is copied or encoded before a block needs it.
    masks: float32 [A, H, W], 0 or 1: where each of them is in the picture, which may have another size of that aspect.
    margin: how far around its mask a voice reaches, as a share of the mask's longer side (the original's
        tenth makes room for a head that moves); 0: the masks as they are.
    silence: float32 [layers, width], what a silent speaker hears (`EncodedSilence.frame`).
    """

    speakers: tuple[Speaker, ...]
    masks: Tensor
    waveform: Tensor
    sample_rate: int
    silence: Tensor
    margin: float = 0.0

    def __post_init__(self) -> None:
        assert self.voices and len(self.speakers) == len(self.masks), (len(self.speakers), self.masks.shape)
        sizes = {voice.encoded_to for voice in self.voices}
        if len(sizes) > 1:
            raise InputError(
                f"the voices come from different audio encoders: (layers, width) are {sorted(sizes)}. Encode all of "
                "them with the same one."
            )
        if len({bool(voice.heard) for voice in self.voices}) > 1:
            raise InputError(
                "only some of the voices have bounded context. Set context in Audio Encode to the same for all."
            )

    @property
    def voices(self) -> list[AvatarAudio]:
        """Those that are there, each once."""
        found = (speaker.audio for speaker in self.speakers if speaker.audio is not None)
        return list({id(audio): audio for audio in found}.values())

    @property
    def actors(self) -> int:
        return len(self.speakers)

    @property
    def encoded_to(self) -> tuple[int, int]:
        return self.voices[0].encoded_to

    @property
    def values(self) -> int:
        return sum(voice.values for voice in self.voices)

    @property
    def broken(self) -> int:
        return sum(voice.broken for voice in self.voices)

    @property
    def by_sound(self) -> bool:
        return any(voice.by_sound for voice in self.voices)

    @property
    def fingerprint(self) -> str:
        return self._named([audio.fingerprint if audio else "" for audio in self._audios()])

    @property
    def features_fingerprint(self) -> str:
        return self._named([audio.features_fingerprint if audio else "" for audio in self._audios()])

    @property
    def encoding_device(self) -> torch.device | None:
        devices = [voice.encoding_device for voice in self.voices]
        return next((device for device in devices if device is not None), None)

    def encode_frames(self, first_frame: int, num_frames: int, fps: Fraction, progress: Progress | None = None) -> None:
        for speaker in self.speakers:
            heard = [bucket for bucket in speaker.buckets(first_frame, num_frames, fps) if bucket != SILENT]
            if speaker.audio is not None:
                speaker.audio.encode_buckets(heard, progress)

    def heard_keys(self, fps: Fraction, blocks: int) -> tuple[str, ...] | None:
        if not self.voices[0].heard:
            return None
        return tuple(self._heard_key(block * FRAMES_PER_BLOCK, fps) for block in range(blocks))

    def aligned(self, first_frame: int, num_frames: int, fps: Fraction) -> Tensor:
        """As `Voice.aligned`, with `silence` where a speaker is silent and after the end of a voice."""
        aligned = self.silence.expand(self.actors, num_frames, *self.silence.shape).permute(0, 2, 3, 1).clone()
        for speaker, result in zip(self.speakers, aligned, strict=True):
            buckets = speaker.buckets(first_frame, num_frames, fps)
            there = [place for place, bucket in enumerate(buckets) if bucket != SILENT]
            if speaker.audio is not None and there:
                result[..., there] = speaker.audio.at_buckets([buckets[place] for place in there])[0]
        return aligned

    def _heard_key(self, first_frame: int, fps: Fraction) -> str:
        buckets = (speaker.buckets(first_frame, FRAMES_PER_BLOCK, fps) for speaker in self.speakers)
        keys = [
            audio.heard_key(heard) if audio and max(heard) >= 0 else ""
            for audio, heard in zip(self._audios(), buckets, strict=True)
        ]
        return Fingerprint().add("speakers", keys).add("silence", self.silence).hexdigest()

    def _named(self, voices: list[str]) -> str:
        times = [speaker.told() for speaker in self.speakers]
        return Fingerprint().add("speakers", voices).add("times", times).add("silence", self.silence).hexdigest()

    def _audios(self) -> Iterator[AvatarAudio | None]:
        return (speaker.audio for speaker in self.speakers)


def mixed(tracks: Sequence[tuple[AvatarAudio, Fraction]]) -> tuple[Tensor, int]:
    """The sound [C, S] of tracks that each begin at a time, in seconds, and its sample rate, the first one's.

    It has the most channels of all and is turned down only where the sum would clip. One track that begins at 0 is its
    own sound, not a copy.
    """
    first = tracks[0][0]
    if len(tracks) == 1 and tracks[0][1] == 0:
        return first.waveform, first.sample_rate
    rate, channels = first.sample_rate, max(track.waveform.shape[0] for track, _ in tracks)
    for track, _ in tracks:
        if track.waveform.shape[0] not in (1, channels):
            raise InputError(
                f"voices with {track.waveform.shape[0]} and {channels} channels cannot be mixed; make them mono or "
                "stereo."
            )
    ends = (sample_at(start, rate) + math.ceil(track.duration * rate) for track, start in tracks)
    result, loudest = torch.zeros(channels, max(ends)), 1.0
    for track, start in tracks:
        sound, place = resample(track.waveform, track.sample_rate, rate), sample_at(start, rate)
        result[:, place : place + sound.shape[1]] += sound
        loudest = max(loudest, float(sound.abs().max()))
    peak = float(result.abs().max())
    return (result.mul_(loudest / peak) if peak > loudest else result), rate
