"""Who watches a live stream: late, slow, hostile, from another page, by HLS."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import pytest
from comfy_client import RequestRefused
from comfy_server import ComfyServer

PATH = "/liveavatar/live"


@contextmanager
def broadcast(server: ComfyServer, name: str) -> Iterator[str]:
    """A stream of this name while it is made; gives the name of the file that makes it begin again."""
    inputs = {"name": name, "stop": f"stop-{name}", "again": f"again-{name}", "fps": 25}
    server.client.queue({"1": {"class_type": "OddBroadcast", "inputs": inputs}})
    try:
        yield f"again-{name}"
    finally:
        (server.input / f"stop-{name}").touch()


@asynccontextmanager
async def viewer(server: ComfyServer, name: str, query: str = "") -> AsyncIterator[Any]:
    """A WebSocket of the stream, as soon as the server knows it."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                socket = await session.ws_connect(f"{server.url}{PATH}/{name}{query}", max_msg_size=0)
                break
            except aiohttp.WSServerHandshakeError as error:
                assert error.status == 404, error
                await asyncio.sleep(0.05)
        async with socket:
            yield socket


async def pieces(socket: Any, count: int) -> list[bytes]:
    """The next binary messages; texts are left out."""
    found: list[bytes] = []
    while len(found) < count:
        message = await socket.receive(timeout=60)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
        if message.type == aiohttp.WSMsgType.BINARY:
            found.append(message.data)
    return found


async def pong(socket: Any, number: float) -> dict[str, float]:
    """What the server answers to a ping."""
    await socket.send_json({"ping": number})
    answer = await socket.receive(timeout=60)
    while answer.type != aiohttp.WSMsgType.TEXT or "pong" not in answer.data:
        answer = await socket.receive(timeout=60)
    return json.loads(answer.data)


def has_keyframe(piece: bytes) -> bool:
    """Whether the first picture of a fragment of LiveWriter needs no other."""
    place = piece.index(b"trun")
    return piece[place + 24 : place + 28] == b"\x02\x00\x00\x00"


def test_viewers_come_late_go_away_and_go_on_when_it_begins_again(server: ComfyServer) -> None:
    async def watch(again: str) -> None:
        async with viewer(server, "w-1") as first:
            start = await first.receive_json(timeout=60)
            assert start["first"] == 0 and start["epoch"] == 0 and start["mime"].startswith("video/mp4")
            beginning, *_, last = await pieces(first, 60)
            assert beginning[4:8] == b"ftyp" and last[4:8] == b"moof"
            async with viewer(server, "w-1") as late:
                newest = await late.receive_json(timeout=60)
                assert newest["first"] > 10, "a late one begins at the newest keyframe, not at the oldest that is kept"
                _, piece = await pieces(late, 2)
                assert has_keyframe(piece)
            # One that goes on where it was, and one that asks for what is not kept any more.
            for seen in (newest["first"] + 1, 1, 10**11):
                async with viewer(server, "w-1", f"?seen={seen}") as back:
                    start = await back.receive_json(timeout=60)
                    assert start["first"] == seen if seen == newest["first"] + 1 else start["first"] >= newest["first"]
            (server.input / again).touch()
            message = await first.receive(timeout=60)
            while message.type != aiohttp.WSMsgType.TEXT:
                message = await first.receive(timeout=60)
            assert json.loads(message.data)["epoch"] == 1
            other, piece = await pieces(first, 2)
            assert other[4:8] == b"ftyp" and other != beginning and has_keyframe(piece)
            (server.input / "stop-w-1").touch()
            while message.type != aiohttp.WSMsgType.TEXT or "ended" not in message.data:
                message = await first.receive(timeout=60)
            assert json.loads(message.data) == {"ended": True}
            assert (await first.receive(timeout=60)).type == aiohttp.WSMsgType.CLOSE

    with broadcast(server, "w-1") as again:
        asyncio.run(watch(again))


HOSTILE = ("{", "[]", "null", '{"ping": "1"}', '{"ping": NaN}', '{"ping": 1e999}', "[" * 4000)
HOSTILE += ('{"shown": true, "at": 1}', '{"shown": -1, "at": 0, "epoch": 0}', '{"shown": 1, "at": 1e30, "epoch": 0}')
HOSTILE += ('{"shown": 1}', '{"a": ' + "9" * 4000 + "}")


def test_what_viewers_say_is_believed_only_where_it_can_be(server: ComfyServer) -> None:
    async def talk() -> None:
        async with viewer(server, "w-2") as socket, viewer(server, "w-2") as other:
            await pieces(other, 2)
            for text in HOSTILE:
                await socket.send_str(text)
            await socket.send_bytes(b"\xff" * 100)
            assert (await pong(socket, 12.5))["pong"] == 12.5
            for too_much in ("x" * 5000, None):
                async with viewer(server, "w-2") as loud:
                    for _ in range(1 if too_much else 300):
                        await loud.send_str(too_much or '{"ping": 1}')
                    message = await loud.receive(timeout=60)
                    while message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                        message = await loud.receive(timeout=60)
            # A block has 12 pieces at most, so by now the first one is written, and the server knows it.
            await pieces(other, 20)
            at = (await pong(socket, 1))["at"]
            await socket.send_json({"shown": 0.04, "at": at, "epoch": 0})
            await socket.send_json({"shown": 0.04, "at": at, "epoch": 1})
            await socket.send_json({"shown": 0.04, "at": at - 60_000, "epoch": 0})
            # What is answered after them was read after them.
            await pong(socket, 2)

    with broadcast(server, "w-2"):
        asyncio.run(talk())
    while not (server.output / "stop-w-2.json").is_file():
        server.client.get("/queue")
    assert len(json.loads((server.output / "stop-w-2.json").read_text("utf-8"))) == 1
    assert "Traceback" not in server.log_text(20)


def refused(server: ComfyServer, path: str) -> int:
    with pytest.raises(RequestRefused) as told:
        server.client.request(path)
    return told.value.status


async def status(server: ComfyServer, path: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(server.url + path, headers=headers) as answer:
        return answer.status


def test_the_page_and_the_window_and_nothing_else_and_nobody_else(server: ComfyServer) -> None:
    async def wait() -> None:
        async with viewer(server, "w-3") as socket:
            await pieces(socket, 60)

    with broadcast(server, "w-3"):
        asyncio.run(wait())
        page = server.client.request(f"{PATH}/w-3").decode("utf-8")
        assert 'id="liveavatar-live"' in page and "<script>" not in page
        for place in (PATH, "/api" + PATH):
            html = server.client.request(f"{place}/w-3").decode("utf-8")
            for module in re.findall(r'"([./]+/extensions/[^"]+)"', html):
                path = f"{place}/w-3"
                for part in ["..", *module.split("/")]:
                    path = path.rpartition("/")[0] if part == ".." else f"{path}/{part}"
                assert server.client.request(path), path
        playlist = server.client.request(f"{PATH}/w-3/hls/live.m3u8").decode("utf-8")
        names = re.findall(r'(?m)^part\d+\.m4s$|(?<=URI=")begin\.mp4', playlist)
        assert len(names) > 1
        assert all(server.client.request(f"{PATH}/w-3/hls/{name}") for name in names)
        for name in ("..%2fstop-w-3", "%2e%2e/x", "part1.m4s.tmp", "live.m3u8%00", "part.m4s", "/etc/passwd", "x", ""):
            assert refused(server, f"{PATH}/w-3/hls/{name}") == 404, name
        own, other = f"http://127.0.0.1:{server.port}", "http://127.0.0.1:1"
        for path in ("", "/w-3", "/w-3/video", "/w-3/hls/live.m3u8"):
            for origin in (other, "null", "https://example.com"):
                assert asyncio.run(status(server, PATH + path, Origin=origin)) == 403, (path, origin)
        assert asyncio.run(status(server, f"{PATH}/w-3/hls/live.m3u8", Origin=own)) == 200
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        assert asyncio.run(status(server, f"{PATH}/w-3", Origin="null", **upgrade, **key)) == 403
    while (server.output / "hls-w-3").exists():
        server.client.get("/queue")
    assert refused(server, f"{PATH}/w-3/hls/live.m3u8") == 404
    assert refused(server, f"{PATH}/a.b/") == 404
