"""Receives the datagrams of other processes in the stages `prompt` and `generate`: acknowledgements, and the gateway's
notes about callers (`misotts_gateway.tickets`)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Message = TypeVar("Message")

READ_BYTES = 64
"""More than any message has, so that the beginning of a longer datagram is not taken for one."""


class DatagramReceiver(Generic[Message]):
    """Calls `received(message)` for every datagram, from a thread of its own."""

    def __init__(
        self,
        path: str,
        unpack: Callable[[bytes], Message | None],
        received: Callable[[Message], object],
        thread: str,
    ) -> None:
        """`path` is that of the socket, which is made. `unpack` returns None for a datagram that makes no sense.
        `thread` is the thread's name."""
        self.malformed = 0
        """Number of datagrams that were dropped because they made no sense."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._unpack, self._received = unpack, received
        threading.Thread(target=self._run, name=thread, daemon=True).start()

    def _run(self) -> None:
        while True:
            message = self._unpack(self._socket.recv(READ_BYTES))
            if message is None:
                self.malformed += 1
            else:
                self._received(message)
