"""Routes of ComfyUI's server on which its page watches a video while it is made.

    GET /liveavatar/live?client=ID            what a page has begun and is not finished, and live ones (JSON)
    GET /liveavatar/live/STREAM?seen=N        WebSocket: a text (`Start`), then pieces of the video, then the end
    GET /liveavatar/live/STREAM               without an upgrade to a WebSocket: a page that watches a live session
    GET /liveavatar/live/STREAM/video         the same as one file without an end, for a page that may not play pieces
    GET /liveavatar/live/STREAM/hls/FILE      a file of a live session's HLS window

A stream is known by a name that nobody can guess and that only the page gets that has begun it, or whoever is given
the address of a live session; no path is asked for.
"""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from aiohttp import web

from .live.access import check_origin
from .live.page import live_page
from .live.session import PAGE
from .live.viewer_messages import ViewerMessages
from .live_stream import LiveStream, stream_of, streams_for

DIGITS = re.compile("[0-9]{1,12}")
CHUNK_BYTES = 32 * 1024
"""Chromium looks at what has arrived in chunks of this size."""
MOST_VIEWERS = 64
"""Of one stream at a time."""
LONGEST_MESSAGE = 4096
HEARTBEAT_SECONDS = 20.0
LARGEST_PART = 32 * 2**20


class Start(TypedDict):
    """The first message of a stream, and of every epoch of it: the kind of the video, the number of the first piece
    that follows, and how often the stream has begun again."""

    mime: str
    first: int
    epoch: int


class End(TypedDict):
    """The last message of a live stream."""

    ended: bool


def add_routes() -> None:
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(PAGE)(running_streams)
        server.routes.get(PAGE + "/{name}")(watch)
        server.routes.get(PAGE + "/{name}/video")(whole_video)
        server.routes.get(PAGE + "/{name}/hls/{file}")(hls_file)


async def running_streams(request: web.Request) -> web.Response:
    check_origin(request)
    return web.json_response(streams_for(request.query.get("client", "")))


async def watch(request: web.Request) -> web.StreamResponse:
    if not web.WebSocketResponse().can_prepare(request).ok:
        check_origin(request)
        return live_page(request)
    stream = _asked_for(request)
    seen = request.query.get("seen", "0")
    with _viewing(stream):
        answer = web.WebSocketResponse(compress=False, max_msg_size=LONGEST_MESSAGE, heartbeat=HEARTBEAT_SECONDS)
        await answer.prepare(request)
        giving = asyncio.ensure_future(_give(stream, int(seen) if DIGITS.fullmatch(seen) else 0, answer))
        gone = asyncio.ensure_future(ViewerMessages(stream).follow(answer))
        await asyncio.wait((giving, gone), return_when=asyncio.FIRST_COMPLETED)
        for task in (giving, gone):
            task.cancel()
        await asyncio.gather(giving, gone, return_exceptions=True)
        await answer.close()
    return answer


async def _give(stream: LiveStream, seen: int, answer: web.WebSocketResponse) -> None:
    if await stream.begun():
        first, epoch = stream.start_after(seen), None
        async for pieces in stream.pieces(first):
            if stream.epoch != epoch:
                epoch = stream.epoch
                start = Start(mime=stream.mime, first=stream.number_of(pieces[0]), epoch=epoch)
                beginning = stream.beginning
                await answer.send_json(start)
                await answer.send_bytes(beginning)
            for piece in pieces:
                await answer.send_bytes(piece.data)
    if stream.live:
        await answer.send_json(End(ended=True))


async def whole_video(request: web.Request) -> web.StreamResponse:
    from liveavatar_runtime.media.live import padding

    stream = _asked_for(request)
    with _viewing(stream):
        if not await stream.begun() or not stream.mime:
            raise web.HTTPNotFound(text="This video cannot be played while it is made.")
        headers = {"Cache-Control": "no-store", "Content-Type": stream.mime.partition(";")[0]}
        answer = web.StreamResponse(headers=headers)
        await answer.prepare(request)
        await answer.write(stream.beginning)
        sent, epoch = len(stream.beginning), stream.epoch
        async for pieces in stream.pieces(stream.start_after(0)):
            if stream.epoch != epoch:
                break
            data = b"".join(piece.data for piece in pieces)
            room = -(sent + len(data)) % CHUNK_BYTES
            # The shortest element that can be skipped has some bytes of its own.
            data += padding(room + (CHUNK_BYTES if room < 16 else 0), stream.mime)
            await answer.write(data)
            sent += len(data)
    return answer


async def hls_file(request: web.Request) -> web.Response:
    """Read at once, so that no open file keeps the window from being moved on."""
    from liveavatar_runtime.live.hls import FILE_NAME, KINDS

    stream, name = _asked_for(request), request.match_info["file"]
    folder = stream.live.hls if stream.live else None
    if folder is None or FILE_NAME.fullmatch(name) is None:
        raise web.HTTPNotFound(text="There is no such file.")

    def read() -> bytes | None:
        path = folder / name
        return path.read_bytes() if path.is_file() and path.stat().st_size < LARGEST_PART else None

    with _not_found():
        data = await asyncio.to_thread(read)
    if data is None:
        raise web.HTTPNotFound(text="There is no such file.")
    kind = KINDS[name.rpartition(".")[2]]
    return web.Response(body=data, content_type=kind, headers={"Cache-Control": "no-store"})


@contextmanager
def _not_found() -> Iterator[None]:
    """The window has moved on meanwhile."""
    from liveavatar_runtime.errors import replaced

    with replaced(OSError, lambda _: web.HTTPNotFound(text="There is no such file.")):
        yield


@contextmanager
def _viewing(stream: LiveStream) -> Iterator[None]:
    """Counts a viewer. Raises HTTPServiceUnavailable when there are too many."""
    if stream.viewers >= MOST_VIEWERS:
        raise web.HTTPServiceUnavailable(text=f"{MOST_VIEWERS} viewers are watching; no more are let in.")
    stream.viewers += 1
    try:
        yield
    finally:
        stream.viewers -= 1


def _asked_for(request: web.Request) -> LiveStream:
    check_origin(request)
    stream = stream_of(request.match_info["name"])
    if stream is None:
        raise web.HTTPNotFound(text="No such video is being made.")
    return stream
