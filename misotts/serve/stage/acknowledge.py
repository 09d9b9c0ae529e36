"""Acknowledgements: `watermark`, the last stage, tells `generate` about every chunk that has left it.

Triton tells the first steps of an ensemble neither that a caller has left or a later step has failed, nor how fast the
later steps are. An acknowledgement covers all earlier chunks of the stream, so a lost one is made up for by the next.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable

_FORMAT = struct.Struct("<qi??")  # stream, chunk index, cancelled, failed


class AcknowledgementSender:
    """Sends without blocking. What the socket does not take is sent with the next one, or by the next `flush`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._unsent: dict[int, bytes] = {}

    def send(self, stream: int, index: int, cancelled: bool, failed: bool) -> None:
        self._unsent[stream] = _FORMAT.pack(stream, index, cancelled, failed)
        self.flush()

    def flush(self) -> None:
        for stream, datagram in list(self._unsent.items()):
            try:
                self._socket.sendto(datagram, self._path)
            except OSError:
                return
            del self._unsent[stream]


class AcknowledgementReceiver:
    """Calls `received(stream, index, cancelled, failed)` for every acknowledgement, from a thread of its own."""

    def __init__(self, path: str, received: Callable[[int, int, bool, bool], None]) -> None:
        self.malformed = 0
        """Number of datagrams dropped because they have another size than an acknowledgement."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._received = received
        threading.Thread(target=self._run, name="acknowledgements", daemon=True).start()

    def _run(self) -> None:
        while True:
            datagram = self._socket.recv(_FORMAT.size + 1)
            if len(datagram) == _FORMAT.size:
                self._received(*_FORMAT.unpack(datagram))
            else:
                self.malformed += 1
