"""Acknowledgements: `watermark`, the last stage, tells `generate` about every chunk that has left it.

Triton tells the first steps of an ensemble neither that a later step has failed nor how fast the later steps are. (That
a caller has left, the gateway tells: asking Triton costs a message there and back for every chunk.) An acknowledgement
covers all earlier chunks of the stream, so a lost one is made up for by the next.
"""

from __future__ import annotations

import socket
import struct

_FORMAT = struct.Struct("<qi?")  # stream, chunk index, failed


class AcknowledgementSender:
    """Sends without blocking. What the socket does not take is sent with the next one, or by the next `flush`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._unsent: dict[int, bytes] = {}

    def send(self, stream: int, index: int, failed: bool) -> None:
        self._unsent[stream] = _FORMAT.pack(stream, index, failed)
        self.flush()

    def flush(self) -> None:
        for stream, datagram in list(self._unsent.items()):
            try:
                self._socket.sendto(datagram, self._path)
            except OSError:
                return
            del self._unsent[stream]


def unpack(datagram: bytes) -> tuple[int, int, bool] | None:
    """Return stream, chunk index and failed of an acknowledgement; None if it is malformed."""
    if len(datagram) != _FORMAT.size:
        return None
    stream, index, failed = _FORMAT.unpack(datagram)
    return stream, index, failed
