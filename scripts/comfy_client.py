"""A small client of ComfyUI's HTTP and websocket interface, for the demo command and the tests.

    client = ComfyClient("http://127.0.0.1:8188")
    result = client.run(prompt, on_event=print)
    result.raise_for_error()
    result.outputs["9"]["images"][0]["filename"]

Needs nothing beyond what ComfyUI itself needs (aiohttp). The websocket lives in its own thread, so the client can
be used where another event loop runs already.
"""

import asyncio
import json
import queue
import struct
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

Prompt = dict[str, dict[str, Any]]

# Kinds of binary websocket messages (the first four bytes, big endian).
PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4


class ComfyError(RuntimeError):
    """The server refused a request or went away."""


class RequestRefused(ComfyError):
    """The server answered a request with an error status."""

    def __init__(self, path: str, status: int, body: str):
        self.status, self.body = status, body
        super().__init__(f"{path} answered {status}: {body[:2000]}")


class PromptRefused(ComfyError):
    """POST /prompt answered that the prompt is not valid; `errors` is [(node id, node name, message)]."""

    def __init__(self, answer: dict[str, Any], prompt: Prompt):
        self.errors: list[tuple[str, str, str]] = []
        for node_id, entry in (answer.get("node_errors") or {}).items():
            for error in entry["errors"]:
                text = ": ".join(part for part in (error.get("message"), error.get("details")) if part)
                self.errors.append((node_id, node_title(prompt, node_id), text))
        head = answer.get("error") or {}
        lines = [f"{name} (node {node_id}): {text}" for node_id, name, text in self.errors]
        super().__init__("\n".join(lines or [f"{head.get('message', head)} {head.get('details', '')}".strip()]))


class RunFailed(ComfyError):
    """A node raised while the prompt ran."""


@dataclass(frozen=True)
class Event:
    """One websocket message. `kind` is ComfyUI's message type, or "preview" / "text" for the binary ones.

    `seconds` counts from the moment the prompt was queued; `node` is the node it is about, if any. `data` is the
    message's data; for "preview" it is the encoded picture (bytes), for "text" the text.
    """

    seconds: float
    kind: str
    node: str | None
    data: Any


@dataclass
class RunResult:
    """What one prompt did, as a client saw it."""

    prompt: Prompt
    prompt_id: str
    events: list[Event] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)  # node id -> what the node shows, from /history
    refused: dict[str, Any] = field(default_factory=dict)  # output nodes that were not run, from POST /prompt
    seconds: float = 0.0

    def of(self, kind: str, node: str | None = None) -> list[Event]:
        """Events of one kind, in order; of one node when given."""
        return [e for e in self.events if e.kind == kind and (node is None or e.node == str(node))]

    def progress(self, node: str) -> list[tuple[float, float]]:
        """(value, max) of a node each time it changed."""
        seen: list[tuple[float, float]] = []
        for event in self.of("progress_state"):
            state = event.data["nodes"].get(str(node))
            if state and (not seen or seen[-1] != (state["value"], state["max"])):
                seen.append((state["value"], state["max"]))
        return seen

    def previews(self, node: str | None = None) -> list[bytes]:
        """Encoded preview pictures."""
        return [e.data for e in self.of("preview", node)]

    def texts(self, node: str | None = None) -> list[str]:
        """Progress texts."""
        return [e.data for e in self.of("text", node)]

    def notes(self, node: str) -> list[str]:
        """What a node of this pack tells when it has run, cached or not: warnings, marked with ⚠, then facts."""
        return self.outputs.get(str(node), {}).get("liveavatar_notes", [])

    def told(self, node: str) -> str:
        """All that a node of this pack told: its notes, and before them its progress texts, a line each."""
        return "\n".join([*self.texts(node), *self.notes(node)])

    @property
    def error(self) -> dict[str, Any] | None:
        """ComfyUI's execution_error message: node_id, node_type, exception_type, exception_message, traceback ..."""
        return next((e.data for e in self.of("execution_error")), None)

    @property
    def interrupted(self) -> bool:
        return bool(self.of("execution_interrupted"))

    def raise_for_error(self) -> None:
        """Raises RunFailed when a node failed or the run was interrupted."""
        if self.interrupted:
            raise RunFailed("The run was interrupted.")
        if self.error:
            name = node_title(self.prompt, self.error["node_id"])
            message = self.error["exception_message"].strip()
            raise RunFailed(f"{name} (node {self.error['node_id']}): {message} [{self.error['exception_type']}]")


def node_title(prompt: Prompt, node_id: str) -> str:
    """The node's title in the workflow, or its class. Nodes that a node expands into are named after the real one."""
    node = prompt.get(str(node_id)) or prompt.get(str(node_id).split(".", maxsplit=1)[0]) or {}
    return node.get("_meta", {}).get("title") or node.get("class_type") or f"node {node_id}"


class EventStream:
    """The websocket of one client id, read by a thread; None in the queue means the connection was closed."""

    def __init__(self, url: str, client_id: str):
        parts = urllib.parse.urlsplit(url)
        self._url = f"ws://{parts.netloc}{parts.path}/ws?clientId={client_id}"
        self.messages: queue.SimpleQueue[str | bytes | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    async def _listen(self) -> None:
        import aiohttp

        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with aiohttp.ClientSession() as session, session.ws_connect(self._url, max_msg_size=0) as socket:
                hello = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
                await socket.send_json(hello)
                reader = asyncio.create_task(self._read(socket))
                closing = asyncio.create_task(self._closing.wait())
                await asyncio.wait([reader, closing], return_when=asyncio.FIRST_COMPLETED)
                reader.cancel()
                closing.cancel()
        except aiohttp.ClientError:
            pass  # Reported by the None below: the server is not there, or not any more.
        finally:
            self.messages.put(None)
            self._ready.set()

    async def _read(self, socket: Any) -> None:
        async for message in socket:
            if isinstance(message.data, str) and '"feature_flags"' in message.data:
                self._ready.set()  # Only now does the server know that previews may name their node.
            self.messages.put(message.data)

    def __enter__(self) -> "EventStream":
        self._thread.start()
        if not self._ready.wait(30):
            raise ComfyError(f"No websocket answer from {self._url} within 30 s.")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._loop and self._closing and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)


def parse_message(message: str | bytes, seconds: float) -> Event:
    """One websocket message as an Event."""
    if isinstance(message, str):
        parsed = json.loads(message)
        data = parsed.get("data") or {}
        node = data.get("display_node") or data.get("node") or data.get("node_id")
        return Event(seconds, parsed["type"], node, data)
    (kind,) = struct.unpack(">I", message[:4])
    body = message[4:]
    if kind == PREVIEW_WITH_METADATA:
        (length,) = struct.unpack(">I", body[:4])
        metadata = json.loads(body[4 : 4 + length])
        return Event(seconds, "preview", metadata.get("display_node_id"), body[4 + length :])
    if kind == TEXT:
        (length,) = struct.unpack(">I", body[:4])
        return Event(seconds, "text", body[4 : 4 + length].decode(), body[4 + length :].decode())
    if kind == PREVIEW:
        return Event(seconds, "preview", None, body[4:])
    return Event(seconds, f"binary_{kind}", None, body)


class ComfyClient:
    """Requests to one server. Methods raise ComfyError with the server's words when it refuses."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def request(self, path: str, body: bytes | None = None, content_type: str = "application/json") -> bytes:
        """GET, or POST when there is a body."""
        request = urllib.request.Request(self.url + path, data=body, headers={"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RequestRefused(path, error.code, error.read().decode(errors="replace")) from None
        except OSError as error:
            raise ComfyError(f"{self.url}{path} does not answer: {error}") from error

    def get(self, path: str) -> Any:
        """GET, JSON decoded."""
        return json.loads(self.request(path))

    def post(self, path: str, body: Any) -> Any:
        """POST of JSON; the answer decoded, None when it is empty."""
        answer = self.request(path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def interrupt(self) -> None:
        """Stops the prompt that runs now."""
        self.post("/interrupt", {})

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of a finished prompt: prompt, outputs, status, meta; {} while there is none."""
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """A file as the browser gets it."""
        query = {"filename": filename, "subfolder": subfolder, "type": type}
        return self.request("/view?" + urllib.parse.urlencode(query))

    def upload(self, path: Path, name: str | None = None) -> str:
        """Puts a picture, sound or video into the server's input folder; returns its name there."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
        head += f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name or path.name}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = json.loads(self.request("/upload/image", body, f"multipart/form-data; boundary={boundary}"))
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def queue(self, prompt: Prompt, client_id: str = "", workflow: dict[str, Any] | None = None) -> dict[str, Any]:
        """Queues a prompt in API form; returns the server's answer (prompt_id, node_errors). Raises PromptRefused."""
        body = {"prompt": prompt, "client_id": client_id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return self.post("/prompt", body)
        except RequestRefused as error:
            if error.status != 400:
                raise
            raise PromptRefused(json.loads(error.body), prompt) from None

    def run(
        self,
        prompt: Prompt,
        *,
        workflow: dict[str, Any] | None = None,
        on_event: Callable[[Event], None] | None = None,
        timeout: float = 600.0,
    ) -> RunResult:
        """Runs a prompt to its end and returns everything the server told about it.

        A node that fails or an interruption is in the result, not raised (see RunResult.raise_for_error).
        `on_event` is called with each event as it arrives; it may call `interrupt`. Raises PromptRefused when the
        prompt is not valid, ComfyError when it does not end within `timeout` seconds or the server goes away.
        """
        client_id = uuid.uuid4().hex
        with EventStream(self.url, client_id) as stream:
            start = time.monotonic()
            answer = self.queue(prompt, client_id, workflow)
            result = RunResult(prompt, answer["prompt_id"], refused=answer.get("node_errors") or {})
            while True:
                try:
                    message = stream.messages.get(timeout=max(0.0, start + timeout - time.monotonic()))
                except queue.Empty:
                    raise ComfyError(f"The run did not end within {timeout:g} s.") from None
                if message is None:
                    raise ComfyError("The server closed the connection while the prompt was running.")
                event = parse_message(message, time.monotonic() - start)
                result.events.append(event)
                if on_event:
                    on_event(event)
                # The history is only complete when no node is executing any more.
                if event.kind == "executing" and event.node is None and event.data.get("prompt_id") == result.prompt_id:
                    break
            result.seconds = time.monotonic() - start
        result.outputs = self.history(result.prompt_id).get("outputs", {})
        return result
