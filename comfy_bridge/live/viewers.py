"""A live session to those who watch: opened and fed by the thread that writes, in the server's thread from then on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..live_stream import EVENT, About, Ended, LiveSettings, LiveStream, OnShown, end_stream, show_stream
from ..messages_to_page import workflow_of

if TYPE_CHECKING:
    from liveavatar_runtime.media.live import Piece

    from ..comfy_types import Hidden, Server


def _nobody(seconds: float, at: float) -> None:
    return None


class LiveViewers:
    """Made by `open_live_stream`; safe in any thread. `hls`: the folder for the window of `live.hls.HlsWindow`."""

    def __init__(self, server: "Server", about: About, settings: LiveSettings) -> None:
        self.about, self.hls = about, settings.hls
        self._server = server
        self._stream = LiveStream(about, "", settings)
        self._in_server(lambda: show_stream(self._stream))
        server.send_sync(EVENT, about)

    def add(self, beginning: bytes, mime: str, pieces: "list[Piece]") -> None:
        """What is new, as `live.fragments.Fragments` gives it. With another beginning the video begins again: its times
        are counted anew, and viewers go on there."""
        self._in_server(lambda: self._stream.add(beginning, mime, pieces))

    def end(self) -> None:
        """The last pieces have been given: pages are told so."""
        self._in_server(lambda: end_stream(self._stream))
        about = self.about
        ended = Ended(id=about["id"], node=about["node"], workflow=about["workflow"], ended=True, file=None)
        self._server.send_sync(EVENT, ended)

    def _in_server(self, function: Callable[[], None]) -> None:
        self._server.loop.call_soon_threadsafe(function)


def open_live_stream(
    session_id: str, hidden: "Hidden", size: tuple[int, int], hls: Path | None, on_shown: OnShown = _nobody
) -> LiveViewers:
    """From now on the session can be watched at /liveavatar/live/SESSION_ID, by every page of this server.

    hidden: of the node that shows it; size: (width, height) of its pictures; hls: a folder, served if it is there;
    on_shown: see `OnShown`; called in the server's thread, up to some ten times a second.
    """
    from comfy.cli_args import args
    from server import PromptServer

    about = About(
        id=session_id,
        node=hidden.unique_id,
        workflow=workflow_of(hidden),
        seconds=0.0,
        width=size[0],
        height=size[1],
        pieces=not args.disable_api_nodes,
        transparent=False,
        live=True,
    )
    server: Server | None = getattr(PromptServer, "instance", None)
    assert server is not None, "a node runs in a server, or nobody could watch"
    return LiveViewers(server, about, LiveSettings(hls, on_shown))
