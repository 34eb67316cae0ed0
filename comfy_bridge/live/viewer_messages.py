"""What the page of a viewer says on its stream: how its clock differs from ours, and what it shows when.

    {"ping": number}, answered {"pong": the same, "at": milliseconds of our clock}
    {"shown": seconds, "at": milliseconds of our clock, "epoch": number}

Anything may come from there: what is not of this kind is not answered, and who says too much is not listened to.
"""

import json
import math
import time
from contextlib import suppress

from aiohttp import WSMsgType, web

from ..live_stream import LiveStream

MOST_IN_A_SECOND = 100
LATE_SECONDS = 30.0
"""A page that tells of something that is longer ago has another clock."""
LONGEST_SECONDS = 1e9


class ViewerMessages:
    """Of one viewer."""

    def __init__(self, stream: LiveStream) -> None:
        self._stream = stream
        self._second, self._count = 0, 0

    async def follow(self, answer: web.WebSocketResponse) -> None:
        """Returns when the viewer has gone, or is not to be listened to any longer."""
        async for message in answer:
            if not self._is_allowed():
                return
            said = _numbers(message.data) if message.type == WSMsgType.TEXT else {}
            if "ping" in said:
                await answer.send_json({"pong": said["ping"], "at": time.monotonic() * 1000})
            elif "shown" in said:
                self._shown(said)

    def _is_allowed(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        return self._count <= MOST_IN_A_SECOND

    def _shown(self, said: dict[str, float]) -> None:
        seconds, at, now = said["shown"], said.get("at", math.nan) / 1000, time.monotonic()
        believable = 0 <= seconds <= LONGEST_SECONDS and now - LATE_SECONDS <= at <= now + 1
        if self._stream.live and believable and said.get("epoch") == self._stream.epoch:
            self._stream.live.on_shown(seconds, min(at, now))


def _numbers(text: str) -> dict[str, float]:
    """The finite numbers of a JSON object; nothing of any other text."""
    said: object = None
    with suppress(ValueError, RecursionError):
        said = json.loads(text)
    if not isinstance(said, dict):
        return {}
    return {
        str(name): float(value)
        for name, value in said.items()
        if isinstance(value, (int, float)) and abs(value) < 1e300 and not isinstance(value, bool)
    }
