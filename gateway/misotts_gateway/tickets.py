"""Tickets: how the gateway tells the stages `prompt` and `generate` how much a caller has taken, and that it has left.

The gateway puts the private input TICKET (INT64 [1]) into each request, and sends datagrams to the sockets
`tickets-prompt` and `tickets-generate` in the run folder. The stages read them with `misotts.serve.stage`. A ticket's
upper half is the number of the caller's share (its key, else its address), by which `prompt` is fair.
"""

from __future__ import annotations

import socket
import struct
from itertools import count
from pathlib import Path
from typing import NamedTuple

INPUT = "TICKET"
READERS = ("prompt", "generate")
MESSAGE = struct.Struct("<QIB")
SERIAL_BITS = 32
MAX_SHARES = 65_536
KEPT_GONE = 4_096
"""Tickets of callers that have left which a stage remembers: a note may come before its request."""


class Note(NamedTuple):
    """What a datagram says of one ticket.

    Attributes:
        ticket: the ticket, which is not 0: that is what a request without one has.
        frames: number of frames that the caller has taken so far.
        gone: True if the caller has left, or has got its error.
    """

    ticket: int
    frames: int
    gone: bool


def socket_path(run: Path | str, reader: str) -> str:
    """Return the path of the socket on which the stage `reader` receives notes."""
    return f"{run}/tickets-{reader}"


def pack(note: Note) -> bytes:
    return MESSAGE.pack(note.ticket, note.frames, note.gone)


def unpack(datagram: bytes) -> Note | None:
    """Return the note in a datagram; None if it is malformed."""
    if len(datagram) != MESSAGE.size:
        return None
    ticket, frames, gone = MESSAGE.unpack(datagram)
    return Note(ticket, frames, bool(gone)) if ticket and gone <= 1 else None


def share_of(ticket: int) -> int:
    """Return the number of the share that a ticket belongs to."""
    return ticket >> SERIAL_BITS


class Tickets:
    """Hands out tickets and sends notes without blocking: what a socket does not take is sent with the next note, or by
    the next `flush`."""

    def __init__(self, run: Path | None) -> None:
        """`run`: the run folder; None for a gateway on another machine, which sends nothing."""
        self._paths = {reader: socket_path(run, reader) for reader in READERS} if run else {}
        self._serials = count(1)
        self._shares: dict[str, int] = {}
        self._unsent: dict[str, dict[int, Note]] = {reader: {} for reader in self._paths}
        # A socket for each: notes that one reader does not read fill the send buffer of theirs.
        self._sockets = {reader: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for reader in self._paths}
        for each in self._sockets.values():
            each.setblocking(False)

    def new(self, share: str) -> int:
        """Return a new ticket for a caller of `share`: its key or address."""
        if len(self._shares) >= MAX_SHARES and share not in self._shares:
            self._shares.clear()  # the numbers only have to differ among callers that wait at the same time
        number = self._shares.setdefault(share, len(self._shares) + 1)
        return number << SERIAL_BITS | next(self._serials) & 0xFFFF_FFFF

    def taken(self, ticket: int, frames: int) -> None:
        """Tell `generate` how many frames of an utterance its caller has taken."""
        self._send("generate", Note(ticket, frames, gone=False))

    def gone(self, ticket: int, frames: int) -> None:
        """Tell both stages that the caller has left."""
        for reader in READERS:
            self._send(reader, Note(ticket, frames, gone=True))

    def flush(self) -> None:
        """Send what no socket has taken yet."""
        for reader in self._paths:
            self._flush(reader)

    def close(self) -> None:
        for each in self._sockets.values():
            each.close()

    def _send(self, reader: str, note: Note) -> None:
        if reader in self._paths:
            self._unsent[reader][note.ticket] = note  # a later note of a ticket covers an earlier one
            self._flush(reader)

    def _flush(self, reader: str) -> None:
        notes = self._unsent[reader]
        for ticket, note in list(notes.items()):
            try:
                self._sockets[reader].sendto(pack(note), self._paths[reader])
            except BlockingIOError:
                return  # it does not read now
            except OSError:
                pass  # it has ended, and the server with it
            del notes[ticket]
