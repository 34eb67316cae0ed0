"""Rank 0's link to the rank that decodes: ComfyUI's requests go there and frames come back, beside the sampling.

It is a connection like ComfyUI's, not a process group, so no rank waits for another one there. Both sides have the
group's own pair of keys, which nobody else has.
"""

import threading

import msgspec

from ..keys import KeyPair
from ..messages import DecoderAbout, FromDecoder, Hello, ToDecoder
from ..wire.server import Events, Server, Session
from .comfyui_connection import ComfyUIConnection
from .ranks import Rank

ADDRESS_KEY, ABOUT_KEY = "decoder/address", "decoder/about"
"""In the store: where rank 0 waits for the rank that decodes, [host, port]; and what ComfyUI is told about it."""
SILENCE_SECONDS = 3600.0
"""The watch over all ranks notices one that hangs, and decoding may take its time."""


class DecoderRelay:
    """Waits for the rank that decodes, which connects when it has loaded its VAE; `host`: rank 0's own address."""

    def __init__(self, rank: Rank, comfyui: ComfyUIConnection, host: str, pair: KeyPair) -> None:
        self._rank = rank
        self._session: Session | None = None
        connected = threading.Event()

        def opened(session: Session) -> None:
            self._session = session
            connected.set()

        kinds = FromDecoder | Hello
        self._server = Server((host, 0), pair, {pair.public}, kinds, SILENCE_SECONDS)
        self._server.start(Events(opened, comfyui.bring_back, self._lost, lambda error: self._lost()))
        rank.store.set(ADDRESS_KEY, msgspec.json.encode((host, self._server.port)).decode())
        connected.wait()
        self.about = msgspec.json.decode(rank.store.get(ABOUT_KEY), type=DecoderAbout)
        comfyui.pass_on_decoding(self._pass_on)

    def _pass_on(self, message: ToDecoder) -> bool:
        return self._session is None or self._server.offer(message, self._session)

    def _lost(self) -> None:
        about = self.about
        text = f"rank {about.rank} ({about.where}), which decodes, is lost: the connection was closed"
        self._rank.file_report(self._rank.failed(text, consequence=True))
