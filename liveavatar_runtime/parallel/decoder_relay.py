"""Rank 0's link to the rank that decodes: ComfyUI's requests go there and frames come back, in threads of their own.

Both ranks stay out of each other's way: the link is a channel, not a process group, so sampling goes on meanwhile.
"""

import contextlib
import json
import threading
from typing import Any

from .channel import Channel, ChannelError, Listener, Message, welcome
from .decoding import ADDRESS_KEY, FACTS_KEY, MESSAGE_BYTES
from .desk import Desk
from .failures import Failure
from .ranks import Rank


class DecoderRelay:
    """Waits for the rank that decodes, which connects when it has loaded its VAE; `host`: rank 0's address for ranks.

    `about` is what ComfyUI is told: rank, where, bytes of weights, and `keys` (`weights_key.vae_keys`).
    """

    def __init__(self, rank: Rank, desk: Desk, host: str, token: str) -> None:
        self._rank, self._desk = rank, desk
        listener = Listener(host, 0)
        rank.store.set(ADDRESS_KEY, json.dumps([host, listener.port]))
        self._channel = _welcomed(listener, token)
        listener.close()
        self.about: dict[str, Any] = json.loads(rank.store.get(FACTS_KEY))
        desk.pass_on_decoding(self._pass_on)
        threading.Thread(target=self._bring_back, daemon=True, name="decoder relay").start()

    def _pass_on(self, message: Message) -> None:
        # Whoever brings back frames notices the end as well.
        with contextlib.suppress(ChannelError):
            self._channel.send(message.header, message.tensors)

    def _bring_back(self) -> None:
        try:
            while True:
                message = self._channel.receive(body_bytes=MESSAGE_BYTES)
                self._desk.send(message.header, message.tensors)
        except ChannelError as error:
            rank, about = self._rank, self.about
            text = f"rank {about['rank']} ({about['where']}), which decodes, is lost: {error}"
            failure = Failure(rank.number, rank.where, text, consequence=True)
            # At once: torchrun is about to end this rank as well.
            self._desk.tell(failure)
            rank.post(failure)


def _welcomed(listener: Listener, token: str) -> Channel:
    """The first connection that knows the token."""
    while True:
        with contextlib.suppress(ChannelError):
            channel = welcome(listener.accept(), token)
            channel.set_timeout(None)
            return channel
