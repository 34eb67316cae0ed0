"""The outputs of a live video: each may fail without the others, and is opened anew after a while."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ..errors import handled, reason_of
from .packets import OutputKind, Packet, PacketOutput, Tracks, since

Say = Callable[[str], None]
FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 2.0, 60.0
STEADY_SECONDS = 10.0
"""An output that has worked for so long works."""


@dataclass
class Outputs:
    """Gives packets to outputs of these kinds. say: tells the user, by the thread that encodes."""

    kinds: Sequence[OutputKind]
    tracks: Tracks
    say: Say
    _slots: "list[_Slot]" = field(init=False)

    def __post_init__(self) -> None:
        self._slots = [_Slot(kind, self.tracks, self.say) for kind in self.kinds]

    def take(self, packets: Sequence[Packet]) -> None:
        """The next packets of the video, in order."""
        for slot in self._slots:
            slot.take(packets)

    def close(self) -> None:
        for slot in self._slots:
            slot.close()


@dataclass
class _Slot:
    """One output, open or to be opened at a keyframe. Its pauses are counted in frames of the video."""

    kind: OutputKind
    tracks: Tracks
    say: Say
    output: PacketOutput | None = None
    opened: int = 0
    """Frame with which the open output begins."""
    not_before: int = 0
    pause: float = FIRST_RETRY_SECONDS
    is_told: bool = False
    """Of a failure, of which the end is to be told as well."""

    def take(self, packets: Sequence[Packet]) -> None:
        from av.error import FFmpegError

        with handled((FFmpegError, OSError), lambda error: self._failed(error, packets)):
            if self.output is None and not self._open(packets):
                return
            assert self.output is not None
            self.output.take(since(packets, self.opened, self.tracks) if self.opened else packets)
            self._note_steady(packets)

    def close(self) -> None:
        from av.error import FFmpegError

        output, self.output = self.output, None
        if output is not None:
            with suppress(FFmpegError, OSError):
                output.close()

    def _open(self, packets: Sequence[Packet]) -> bool:
        keys = (packet.time for packet in packets if packet.is_key and packet.time >= self.not_before)
        start = next(keys, None)
        if start is None:
            return False
        self.opened = start
        self.output = self.kind.open(self.tracks)
        return True

    def _failed(self, error: Exception, packets: Sequence[Packet]) -> None:
        self.close()
        if not self.is_told:
            self.is_told = True
            self.say(
                f"Live video to {self.kind.name} has stopped: {reason_of(error)}. It is tried again; the other outputs "
                "go on."
            )
        self.not_before = self._frame(packets) + int(self.pause * self.tracks.fps)
        self.pause = min(2 * self.pause, MOST_RETRY_SECONDS)

    def _note_steady(self, packets: Sequence[Packet]) -> None:
        if self.pause > FIRST_RETRY_SECONDS and self._frame(packets) - self.opened > STEADY_SECONDS * self.tracks.fps:
            self.pause, self.is_told = FIRST_RETRY_SECONDS, False
            self.say(f"Live video to {self.kind.name} goes on.")

    @staticmethod
    def _frame(packets: Sequence[Packet]) -> int:
        return max((packet.time for packet in packets if packet.is_picture), default=0)
