"""A video while it is made, for those who watch: what they are given, and where it is kept until it is finished.

Everything here belongs to the thread of ComfyUI's server, but for `Broadcast`, which the thread that writes the file
uses. Memory is bounded: of a long video only the end is kept, and who comes late begins at a keyframe there.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from .comfy_types import Hidden
from .messages_to_page import PageOfRun, workflow_of
from .output_files import OutputFile, ShownClips
from .progress import log

if TYPE_CHECKING:
    from liveavatar_runtime.finishing.step import FrameShape
    from liveavatar_runtime.media.live import Piece

EVENT = "liveavatar.live"
"""Name of the message that tells a page of a stream's beginning and of its end; `web/player.js` listens to it."""
KEPT_BYTES = 8 * 2**20
LIVE_STARTS, STARTS_BEHIND = 6, 3
"""Of a live stream, parts from a keyframe to the next one, about a second each: kept, and how far a viewer may be
behind before he is given the newest one."""
GRACE_SECONDS = 10.0


class ShownFile(TypedDict):
    """A finished file as the page asks for it, where it is on the server, and its clips."""

    filename: str
    subfolder: str
    type: str
    path: str
    clips: ShownClips


class About(TypedDict):
    """What a page is told of a stream. node: the id in the prompt; workflow: of the graph that was sent, or "";
    seconds: how long the video becomes; pieces: whether this server lets its pages play pieces (MediaSource), which
    the content security policy of --disable-api-nodes does not; transparent: whether its pictures have alpha; live:
    whether it has no end, and who watches wants its newest frame (`seconds` is 0 then)."""

    id: str
    node: str
    workflow: str
    seconds: float
    width: int
    height: int
    pieces: bool
    transparent: bool
    live: bool


class Ended(TypedDict):
    """What a page is told at the end; file: None when there is none."""

    id: str
    node: str
    workflow: str
    ended: bool
    file: ShownFile | None


OnShown = Callable[[float, float], None]
"""Told by pages, as far as they can be believed: which second of the video was seen when, by `time.monotonic`."""


@dataclass(frozen=True)
class LiveSettings:
    """What only live streams have: the folder of their HLS window, and who wants to know what is seen."""

    hls: Path | None = None
    on_shown: OnShown = lambda seconds, at: None


@dataclass(eq=False)
class LiveStream:
    """The pieces of one video so far. `kept` are the last ones, of which `first` counts those before.

    A live one keeps a few seconds. It begins again when somebody writes it anew: `epoch` counts that.
    """

    about: About
    client: str
    live: LiveSettings | None = None
    epoch: int = 0
    viewers: int = 0
    mime: str = ""
    beginning: bytes = b""
    ended: bool = False
    first: int = 0
    kept: "deque[Piece]" = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, beginning: bytes, mime: str, pieces: "list[Piece]") -> None:
        if self.beginning and beginning != self.beginning:
            self.first += len(self.kept)
            self.kept.clear()
            self.epoch += 1
        self.beginning, self.mime = beginning, mime
        self.kept.extend(pieces)
        size = sum(len(piece.data) for piece in self.kept)
        starts = sum(piece.starts for piece in self.kept)
        while len(self.kept) > 1 and (size > KEPT_BYTES or (self.live and starts > LIVE_STARTS)):
            gone = self.kept.popleft()
            size, starts = size - len(gone.data), starts - gone.starts
            self.first += 1
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def begun(self) -> bool:
        """Waits for the first piece; False when the stream ends without one."""
        while not self.kept and not self.ended:
            await self._changed.wait()
        return bool(self.kept)

    def start_after(self, seen: int) -> int:
        """Number of the piece that comes next for who has `seen` so many: that one, or one that is kept and begins with
        a keyframe: the first, of a live stream the last, for whoever is too far behind as well."""
        starts = [number for number, piece in enumerate(self.kept, self.first) if piece.starts]
        is_kept = self.first <= seen <= self.first + len(self.kept)
        if self.live:
            is_kept = is_kept and sum(number > seen for number in starts) <= STARTS_BEHIND
        if is_kept and seen:
            return seen
        return starts[-1 if self.live else 0] if starts else self.first + len(self.kept)

    def number_of(self, piece: "Piece") -> int:
        """Of a piece that is kept."""
        return self.first + next(place for place, kept in enumerate(self.kept) if kept is piece)

    async def pieces(self, number: int) -> "AsyncIterator[list[Piece]]":
        """All that there is from a piece on, as it comes, until the end, of one epoch at a time. Who is too slow for
        what is kept goes on at a keyframe."""
        while True:
            if number < self.first or self.live:
                number = self.start_after(number)
            new = list(self.kept)[number - self.first :]
            if new:
                number += len(new)
                yield new
            elif self.ended:
                return
            else:
                await self._changed.wait()


_STREAMS: dict[str, LiveStream] = {}


def stream_of(name: str) -> LiveStream | None:
    """The stream of this id, while it is made and a little longer."""
    return _STREAMS.get(name)


def streams_for(client: str) -> list[About]:
    """Those that a page has begun and that are not finished, and live ones, which any page may watch."""
    return [
        stream.about for stream in _STREAMS.values() if (stream.client == client or stream.live) and not stream.ended
    ]


def show_stream(stream: LiveStream) -> None:
    """From now on it can be watched. Only in the server's thread, as `end_stream`."""
    _STREAMS[stream.about["id"]] = stream


def end_stream(stream: LiveStream) -> None:
    """Nothing comes any more; a page may still be on its way to a video that was quickly made."""
    stream.end()
    loop, name = asyncio.get_running_loop(), stream.about["id"]

    def forget() -> None:
        if _STREAMS.get(name) is stream:
            del _STREAMS[name]

    loop.call_later(GRACE_SECONDS, forget)


class Broadcast:
    """Shows a file that grows to the page that has asked for it; nothing happens where no page has.

    seconds: how long the video becomes; shape: of its frames. `news` is for the thread that writes the file, the rest
    for the one that runs the node.
    """

    def __init__(self, path: Path, hidden: Hidden, seconds: float, shape: "FrameShape") -> None:
        from comfy.cli_args import args

        from liveavatar_runtime.media.live import LiveFile

        self._page = PageOfRun()
        self._file, self._is_read = LiveFile(path), bool(self._page.client)
        about = About(
            id=secrets.token_urlsafe(16),
            node=hidden.unique_id,
            workflow=workflow_of(hidden),
            seconds=seconds,
            width=shape.width,
            height=shape.height,
            pieces=not args.disable_api_nodes,
            transparent=shape.has_alpha,
            live=False,
        )
        self._stream = LiveStream(about, self._page.client)
        self._page.in_server(show_stream, self._stream)
        self._page.tell(EVENT, about)

    def news(self) -> None:
        """After more has been written. A file that cannot be read is only not shown any further."""
        if not self._is_read:
            return
        pieces = None
        with suppress(OSError):
            pieces = self._file.news()
        if pieces is None:
            self._is_read = False
            log.info("%s cannot be read while it is written, so it is shown when it is finished", self._file.path)
        elif pieces:
            self._page.in_server(self._stream.add, self._file.beginning, self._file.mime, pieces)

    def end(self, file: OutputFile | None, clips: ShownClips) -> None:
        """Whoever watches gets the rest and is told of the finished file, None when there is none."""
        about = self._stream.about
        shown = shown_file(file, clips) if file is not None else None
        self._page.in_server(end_stream, self._stream)
        self._page.tell(
            EVENT, Ended(id=about["id"], node=about["node"], workflow=about["workflow"], ended=True, file=shown)
        )


def shown_file(file: OutputFile, clips: ShownClips) -> ShownFile:
    return ShownFile(filename=file.name, subfolder=file.subfolder, type="output", path=str(file.path), clips=clips)
