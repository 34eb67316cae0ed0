"""What travels between nodes as a voice: of one speaker (`features.AvatarAudio`) or of several (`conversation`)."""

from abc import ABC, abstractmethod
from fractions import Fraction

import torch
from torch import Tensor

from ..duration import frames_for_samples
from ..progress import Progress


class Voice(ABC):
    """An encoded voice, and the sound itself.

    waveform: [C, S] float32 on the CPU, what goes into the video file; all actors mixed.
    sample_rate: samples a second of `waveform`.
    """

    waveform: Tensor
    sample_rate: int

    @property
    def is_live(self) -> bool:
        """Whether it comes while it is heard: then its sound is not known before, and `waveform` is empty."""
        return False

    @property
    def channels(self) -> int:
        """Of the sound."""
        return self.waveform.shape[0]

    def sound(self, first_sample: int, end_sample: int) -> Tensor:
        """[C, n]: samples [first_sample, end_sample) of what goes into the video file; fewer where it is over."""
        return self.waveform[:, first_sample:end_sample]

    @property
    def duration(self) -> Fraction:
        """Seconds of the waveform."""
        return Fraction(self.waveform.shape[1], self.sample_rate)

    def video_frames(self, fps: Fraction) -> int:
        """Fewest video frames that have the sound of the whole waveform, at least 1."""
        return frames_for_samples(self.waveform.shape[1], fps, self.sample_rate)

    @property
    @abstractmethod
    def actors(self) -> int:
        """Number of speakers."""

    @property
    @abstractmethod
    def encoded_to(self) -> tuple[int, int]:
        """Layers of the audio encoder and width of each."""

    @property
    @abstractmethod
    def values(self) -> int:
        """How many numbers all features are."""

    @property
    @abstractmethod
    def broken(self) -> int:
        """Features that are not numbers; of a long track, of those that are encoded."""

    @property
    @abstractmethod
    def by_sound(self) -> bool:
        """Whether `fingerprint` is of the sound instead of all features, so that nothing is encoded for it."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of what the model hears."""

    @property
    @abstractmethod
    def features_fingerprint(self) -> str:
        """Content hash of all features, which are encoded for it."""

    @property
    @abstractmethod
    def encoding_device(self) -> torch.device | None:
        """Where what is not encoded yet will be; None where all of it is."""

    @abstractmethod
    def encode_frames(self, first_frame: int, num_frames: int, fps: Fraction, progress: Progress | None = None) -> None:
        """Have what video frames [first_frame, first_frame + num_frames) hear encoded."""

    @abstractmethod
    def heard_keys(self, fps: Fraction, blocks: int) -> tuple[str, ...] | None:
        """For each of the first `blocks` blocks of a video, also after the voice's end, a hash of what decides its
        features: the sound that it hears, the encoder, the windows. None for a voice that is encoded as a whole."""

    @abstractmethod
    def aligned(self, first_frame: int, num_frames: int, fps: Fraction) -> Tensor:
        """Features of video frames [first_frame, first_frame + num_frames): [A, L, D, num_frames] float32. Only these
        are computed, and a frame's values don't depend on which others are asked for."""
