"""SIGTERM, by which torchrun ends the ranks that are left once one of them has ended."""

import select
import signal
import socket


class EndSignal:
    """Notices it in any thread: the main one, in which Python handles signals, may be in another library for long.

    To be made in the main thread. From then on the signal does not end the process.
    """

    def __init__(self) -> None:
        self.came = False
        self._written, self._read = socket.socketpair()
        self._written.setblocking(False)
        self._read.setblocking(False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)

    def wait(self, seconds: float) -> None:
        """At most so long; returns early when a signal comes."""
        if select.select([self._read], [], [], seconds)[0]:
            # One byte for each signal, its number; others come here too.
            self.came = self.came or signal.SIGTERM in self._read.recv(4096)
