"""Routes of ComfyUI's server on which its page watches a video while it is made.

    GET /liveavatar/live?client=ID            what a page has begun and is not finished (JSON)
    GET /liveavatar/live/STREAM?seen=N        WebSocket: a text (`Start`), then pieces of the video, then the end
    GET /liveavatar/live/STREAM/video         the same as one file without an end, for a page that may not play pieces

A stream is known by a name that nobody can guess and that only the page gets that has begun it; no path is asked for.
"""

import asyncio
import re
from typing import TypedDict
from urllib.parse import urlsplit

from aiohttp import web

from .live_stream import LiveStream, stream_of, streams_for

PREFIX = "/liveavatar/live"
DIGITS = re.compile("[0-9]{1,9}")
CHUNK_BYTES = 32 * 1024
"""Chromium looks at what has arrived in chunks of this size."""


class Start(TypedDict):
    """The first message of a stream: the kind of the video, and the number of the first piece that follows."""

    mime: str
    first: int


def add_routes() -> None:
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(PREFIX)(running_streams)
        server.routes.get(PREFIX + "/{name}")(watch)
        server.routes.get(PREFIX + "/{name}/video")(whole_video)


async def running_streams(request: web.Request) -> web.Response:
    _check_origin(request)
    return web.json_response(streams_for(request.query.get("client", "")))


async def watch(request: web.Request) -> web.StreamResponse:
    stream = _asked_for(request)
    seen = request.query.get("seen", "0")
    answer = web.WebSocketResponse(compress=False)
    await answer.prepare(request)
    giving = asyncio.ensure_future(_give(stream, int(seen) if DIGITS.fullmatch(seen) else 0, answer))
    # A page says nothing, so what comes is that it has gone.
    gone = asyncio.ensure_future(answer.receive())
    await asyncio.wait((giving, gone), return_when=asyncio.FIRST_COMPLETED)
    for task in (giving, gone):
        task.cancel()
    await asyncio.gather(giving, gone, return_exceptions=True)
    await answer.close()
    return answer


async def _give(stream: LiveStream, seen: int, answer: web.WebSocketResponse) -> None:
    if not await stream.begun():
        return
    first = stream.start_after(seen)
    await answer.send_json(Start(mime=stream.mime, first=first))
    await answer.send_bytes(stream.beginning)
    async for pieces in stream.pieces(first):
        for piece in pieces:
            await answer.send_bytes(piece.data)


async def whole_video(request: web.Request) -> web.StreamResponse:
    from liveavatar_runtime.media.live import padding

    stream = _asked_for(request)
    if not await stream.begun() or not stream.mime:
        raise web.HTTPNotFound(text="This video cannot be played while it is made.")
    headers = {"Cache-Control": "no-store", "Content-Type": stream.mime.partition(";")[0]}
    answer = web.StreamResponse(headers=headers)
    await answer.prepare(request)
    await answer.write(stream.beginning)
    sent = len(stream.beginning)
    async for pieces in stream.pieces(stream.start_after(0)):
        data = b"".join(piece.data for piece in pieces)
        room = -(sent + len(data)) % CHUNK_BYTES
        # The shortest element that can be skipped has some bytes of its own.
        data += padding(room + (CHUNK_BYTES if room < 16 else 0), stream.mime)
        await answer.write(data)
        sent += len(data)
    return answer


def _asked_for(request: web.Request) -> LiveStream:
    _check_origin(request)
    stream = stream_of(request.match_info["name"])
    if stream is None:
        raise web.HTTPNotFound(text="No such video is being made.")
    return stream


def _check_origin(request: web.Request) -> None:
    """Raises HTTPForbidden for pages of other servers, which ComfyUI refuses on this machine only, unless its user
    allows them (--enable-cors-header)."""
    from comfy.cli_args import args

    origin = request.headers.get("Origin")
    own = (request.host, request.headers.get("X-Forwarded-Host"))
    if origin is not None and urlsplit(origin).netloc not in own and args.enable_cors_header is None:
        raise web.HTTPForbidden(text="This video is only for the page of this server.")
