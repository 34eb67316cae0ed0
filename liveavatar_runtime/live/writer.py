"""LiveWriter: takes the frames and the sound of a live video, encodes them once, and gives them to its outputs.

    with LiveWriter(PictureTrack(400, 704, Fraction(25)), AudioTrack(48000), [Fragments(on_pieces)]) as video:
        video.write_audio(waveform)          # float32 [C, S]; best a little ahead of the frames
        video.write_frames(frames)           # uint8 [T, H, W, 3]

Nothing of it grows with time, and times are whole numbers of frames and samples, so that nothing adds up.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import torch

from ..errors import InputError, MachineError, handled
from ..media.sound import FALLBACK_RATE, check_sound
from ..media.video import AudioTrack, PictureTrack, VideoWriter
from .encoder import VideoEncoder
from .outputs import Outputs, Say
from .packets import SOUND_AHEAD, OutputKind, Packet

HAND_OUT_SECONDS = 0.02
"""Packets of a block wait for each other no longer than this."""


def _nothing(_: object) -> None:
    return None


@dataclass(frozen=True)
class WriterHooks:
    """All are called by the thread that writes. say(sentence): what an output has met. on_written(frames written):
    after the packets of frames were given to all outputs."""

    say: Say = _nothing
    on_written: Callable[[int], None] = _nothing


@dataclass
class Recording:
    """An ordinary file that is given the same frames and the same sound. None once it has failed."""

    writer: VideoWriter | None
    say: Say
    frames: int = field(default=0, init=False)

    def write(self, act: Callable[[VideoWriter], None]) -> None:
        if self.writer is None:
            return
        with handled(MachineError, self._failed):
            act(self.writer)
            self.frames = self.writer.frames_written

    def _failed(self, error: MachineError) -> None:
        writer, self.writer = self.writer, None
        with suppress(MachineError):
            if writer is not None:
                writer.close()
        self.say(f"The recording of the live video has stopped, the live video goes on: {error}")


class LiveWriter:
    """What `online_video.write_online` writes a live video to.

    picture: even width and height, fps and, if another one is wanted, crf; the rest of it is not looked at. sound: at
    48 kHz, 1 or 2 channels; None for a silent video. recording: a file that is written beside, of the same size, rate
    and sound, and closed with this.

    Sound may run ahead of the picture, by `sound_ahead` samples at best: without them the last frame or two of a block
    wait for the next one. What is missing of it when frames after it are written is silence.

    Raises InputError for values that cannot be written, MachineError when this machine cannot encode; outputs that fail
    are told and opened anew.
    """

    bits = 8
    sound_ahead = SOUND_AHEAD

    def __init__(
        self,
        picture: PictureTrack,
        sound: AudioTrack | None,
        outputs: Sequence[OutputKind],
        hooks: WriterHooks = WriterHooks(),
        recording: VideoWriter | None = None,
    ) -> None:
        if sound is not None:
            check_sound(sound.sample_rate, sound.channels)
            if sound.sample_rate != FALLBACK_RATE:
                raise InputError(f"The live sound has {sound.sample_rate} Hz; it must have {FALLBACK_RATE}.")
        self.writing_seconds = 0.0
        """Of giving packets to the outputs."""
        self._encoder = VideoEncoder(picture, sound)
        self._outputs = Outputs(outputs, self._encoder.tracks, hooks.say)
        self._hooks, self._fps, self._has_sound = hooks, picture.fps, sound is not None
        self._recording = Recording(recording, hooks.say)
        self._closed = False

    @property
    def frames_written(self) -> int:
        return self._encoder.frames

    def write_audio(self, waveform: torch.Tensor | np.ndarray) -> None:
        """Append sound, float [C, S] in -1..1 (else clipped)."""
        self._check_open()
        if not self._has_sound:
            raise InputError("This live video has no sound track: open the LiveWriter with one to write sound.")
        samples = waveform.detach().cpu().float().numpy() if isinstance(waveform, torch.Tensor) else waveform
        samples = np.asarray(samples, dtype=np.float32)
        self._encoder.add_sound(samples)
        self._recording.write(lambda writer: writer.write_audio(samples))
        # Sound of frames that are already there.
        if self.frames_written:
            self._give(self._encoder.encode_sound())

    def write_frames(self, frames: torch.Tensor | np.ndarray) -> None:
        """Append pictures uint8 [T, H, W, 3]; each is on its way to the outputs at once, or with those of the next
        `HAND_OUT_SECONDS`."""
        self._check_open()
        pictures = self._encoder.checked(frames)
        waiting, begun = list(self._encoder.fill_sound()), time.perf_counter()
        for picture in pictures:
            waiting.extend(self._encoder.encode(picture))
            if time.perf_counter() - begun > HAND_OUT_SECONDS:
                self._give(waiting)
                waiting, begun = [], time.perf_counter()
        self._give(waiting)
        self._hooks.on_written(self.frames_written)
        self._recording.write(lambda writer: writer.write_frames(pictures))

    def close(self) -> None:
        """Ends the sound with the picture, the outputs and the recording. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._give(self._encoder.finish())
        self._outputs.close()
        self._recording.write(lambda writer: writer.close())

    def __enter__(self) -> "LiveWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give(self, packets: Iterable[Packet]) -> None:
        given = list(packets)
        if given:
            begun = time.perf_counter()
            self._outputs.take(given)
            self.writing_seconds += time.perf_counter() - begun

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("The live video is closed; nothing can be appended to it.")
