"""How the stages tell the gateway when they worked for an utterance: one datagram a span, to a socket in the run
folder.

Times are `time.monotonic()` seconds, which all processes of a machine share. `generate` knows an utterance by its
ticket and its stream's number, `prompt` by the ticket alone, `decode` and `watermark` by the stream alone.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import NamedTuple

NAMES = ("prompt", "waiting", "prefill", "first frame", "first chunk", "decode", "watermark")
MESSAGE = struct.Struct("<BQQdd")
FLAG = "--traces"
"""The gateway's option, by which the stages know that it listens."""


class Span(NamedTuple):
    """A stage's work for an utterance.

    Attributes:
        name: one of `NAMES`.
        ticket: the utterance's ticket; 0 if the stage does not know it.
        stream: number of the utterance's stream; 0 if the stage does not know it.
        start, end: `time.monotonic()` seconds.
    """

    name: str
    ticket: int
    stream: int
    start: float
    end: float


def socket_path(run: Path | str) -> str:
    """Return the path of the socket on which the gateway receives spans."""
    return f"{run}/spans"


def pack(span: Span) -> bytes:
    return MESSAGE.pack(NAMES.index(span.name), *span[1:])


def unpack(datagram: bytes) -> Span | None:
    """Return the span in a datagram; None if it is malformed."""
    if len(datagram) != MESSAGE.size:
        return None
    number, *rest = MESSAGE.unpack(datagram)
    return Span(NAMES[number], *rest) if number < len(NAMES) else None


class SpanSender:
    """Sends spans without waiting; those that the gateway does not take at once are lost."""

    def __init__(self, run: Path) -> None:
        self._path = socket_path(run)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, name: str, start: float, end: float, ticket: int = 0, stream: int = 0) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendto(pack(Span(name, ticket, stream, start, end)), self._path)
