"""Routes on which sound comes to a live session, from its page and from programs.

WebSocket /liveavatar/live/NAME/voice                  a text {"rate": 48000, "kind": "microphone" or "speech"},
                                                       then binary messages: 16 bit little-endian samples, 1 channel
POST /liveavatar/live/NAME/voice?rate=24000&barge_in=1 such samples, or a WAV file; answers {"queued": seconds}
GET /liveavatar/live/NAME/state                        what is told of the session
POST /liveavatar/live/NAME/control                     what `live.control.read_message` reads
"""

import asyncio
import io
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import WSMsgType, web

from liveavatar_runtime.errors import InputError, MachineError, handled, replaced
from liveavatar_runtime.live.control import Message, read_message
from liveavatar_runtime.reading import parse_json

from .access import asked_session
from .session import PAGE, LiveSession

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from liveavatar_runtime.live.source import Source

LARGEST_MESSAGE = 256 * 1024
"""Bytes of a piece of sound, or of what is asked for."""
LARGEST_WAV = 64 * 2**20
FIRST_MESSAGE_SECONDS = 10.0
TOLD_EVERY_SECONDS = 1.0
KINDS = ("microphone", "speech")
RIFF = b"RIFF"


def add_routes() -> None:
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(PAGE + "/{name}/voice")(voice_socket)
        server.routes.post(PAGE + "/{name}/voice")(voice_posted)
        server.routes.post(PAGE + "/{name}/control")(control_posted)
        server.routes.get(PAGE + "/{name}/state")(state)


async def state(request: web.Request) -> web.Response:
    session = asked_session(request)
    return web.json_response(session.state(), headers={"Cache-Control": "no-store"})


async def control_posted(request: web.Request) -> web.Response:
    session = asked_session(request, may_change=True)
    body = await _body(request, LARGEST_MESSAGE + 1)

    def ask() -> dict[str, object]:
        message = _message(body)
        _check(session, message)
        session.ask(message)
        return dict(session.state())

    return await _answered(ask)


def _message(body: bytes) -> Message:
    if len(body) > LARGEST_MESSAGE:
        raise InputError(f"the message is longer than {LARGEST_MESSAGE} bytes")
    return read_message(_parsed(body))


def _parsed(text: bytes | str) -> object:
    with replaced(ValueError, lambda error: InputError(f"the message is no JSON: {error}")):
        return parse_json(text)


def _check(session: LiveSession, message: Message) -> None:
    """Raises InputError for what cannot be done in this session."""
    from ..input_files import picture_size

    if session.stage == "over":
        raise InputError("the live session is over; queue its workflow again")
    prompts = message.wishes.prompt is not None or any(line.prompt for line in message.script)
    if prompts and session.clip is None:
        raise InputError("nothing encodes another prompt: connect clip to Live Voice, and queue the workflow again")
    if message.wishes.picture is not None:
        picture_size(message.wishes.picture)


async def voice_posted(request: web.Request) -> web.Response:
    session = asked_session(request, may_change=True)
    barge_in = request.query.get("barge_in", "0") not in ("", "0", "false")
    beginning = await _body(request, len(RIFF))
    if beginning == RIFF:
        data = beginning + await _body(request, LARGEST_WAV)
        return await _answered(lambda: _say(session, *_wav(data), barge_in))
    told: list[str] = []
    with handled((InputError, MachineError), lambda error: told.append(str(error))):
        await _say_posted(session, request, beginning, barge_in)
    return _refused(told[0]) if told else web.json_response({"queued": session.state()["queued"]})


async def _body(request: web.Request, most: int) -> bytes:
    """The next bytes that are posted, at most so many; a single read gives what has come."""
    data = b""
    while len(data) < most and (more := await request.content.read(most - len(data))):
        data += more
    return data


async def _say_posted(session: LiveSession, request: web.Request, beginning: bytes, barge_in: bool) -> None:
    """Queues samples as they come."""
    rest = beginning
    with _speech(session, _rate(request.query.get("rate", "")), barge_in) as source:
        async for data in request.content.iter_chunked(LARGEST_MESSAGE):
            rest += data
            whole = len(rest) // 2 * 2
            await asyncio.to_thread(source.push, np.frombuffer(rest[:whole], "<i2"))
            rest = rest[whole:]


@contextmanager
def _speech(session: LiveSession, rate: int, barge_in: bool) -> "Iterator[Source]":
    """Where speech of a program goes; with `barge_in` in place of what is queued."""
    source = session.sound.open_source("speech", rate, "posted")
    with ExitStack() as stack:
        stack.callback(source.close)
        if barge_in:
            session.sound.barge_in()
        yield source


def _say(session: LiveSession, samples: "NDArray[Any]", rate: int, barge_in: bool) -> dict[str, object]:
    with _speech(session, rate, barge_in) as source:
        source.push(samples)
    return {"queued": session.state()["queued"]}


def _wav(data: bytes) -> "tuple[NDArray[Any], int]":
    """Samples of one channel, and how many a second."""

    def unreadable(error: Exception) -> InputError:
        return InputError(f"this WAV file cannot be read: {error}. Send 16 bit PCM in WAV, or raw samples with ?rate=")

    if len(data) >= LARGEST_WAV:
        raise InputError(f"the WAV file is larger than {LARGEST_WAV >> 20} MiB; send it in parts")
    with replaced((wave.Error, EOFError), unreadable), wave.open(io.BytesIO(data)) as file:
        if file.getsampwidth() != 2:
            raise InputError(f"the WAV file has {8 * file.getsampwidth()} bits a sample; send 16")
        channels, rate = file.getnchannels(), file.getframerate()
        values = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    values = values[: len(values) // channels * channels].reshape(-1, channels).astype(np.float32)
    return values.mean(axis=1) / 32768, rate


async def voice_socket(request: web.Request) -> web.StreamResponse:
    session = asked_session(request, may_change=True)
    answer = web.WebSocketResponse(compress=False, max_msg_size=LARGEST_MESSAGE, heartbeat=20)
    await answer.prepare(request)
    told: list[str] = []
    telling = asyncio.ensure_future(_tell(session, answer))
    with handled((InputError, MachineError), lambda error: told.append(str(error))):
        await _hear(session, answer)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    if told and not answer.closed:
        await answer.send_json({"error": told[0]})
    await answer.close()
    return answer


async def _hear(session: LiveSession, answer: web.WebSocketResponse) -> None:
    """Until the other side has gone, or the session is over."""
    late = InputError('no sound was announced; send {"rate": 48000, "kind": "microphone"} first')
    with replaced(asyncio.TimeoutError, lambda error: late):
        first = await asyncio.wait_for(answer.receive(), FIRST_MESSAGE_SECONDS)
    with ExitStack() as stack:
        source = _opened(session, first.data if first.type == WSMsgType.TEXT else "")
        stack.callback(source.close)
        async for message in answer:
            if message.type == WSMsgType.BINARY:
                source.push(np.frombuffer(message.data[: len(message.data) // 2 * 2], "<i2"))
            if session.stage == "over":
                return


async def _tell(session: LiveSession, answer: web.WebSocketResponse) -> None:
    while not answer.closed:
        await answer.send_json(session.state())
        await asyncio.sleep(TOLD_EVERY_SECONDS)


def _opened(session: LiveSession, text: str) -> "Source":
    about: Any = _parsed(text)
    if not isinstance(about, dict) or about.get("kind") not in KINDS:
        raise InputError(f'the first message must be {{"rate": samples a second, "kind": {" or ".join(KINDS)}}}')
    return session.sound.open_source(about["kind"], _rate(str(about.get("rate", ""))), "page")


def _rate(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 9:
        return int(text)
    raise InputError(f"rate is {text[:40]!r}; it must be samples a second, as 16000, 24000 or 48000")


async def _answered(answer: Callable[[], dict[str, object]]) -> web.Response:
    """In a thread, since files are read and locks waited for."""
    told: list[str] = []

    def tried() -> dict[str, object]:
        with handled((InputError, MachineError, OSError), lambda error: told.append(str(error))):
            return answer()
        return {}

    answered = await asyncio.to_thread(tried)
    return _refused(told[0]) if told else web.json_response(answered)


def _refused(text: str) -> web.Response:
    return web.json_response({"error": text}, status=400)
