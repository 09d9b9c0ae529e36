"""Receives the gateway's notes about callers in the stages `prompt` and `generate`: see `misotts_gateway.tickets`."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from misotts_gateway.tickets import MESSAGE, Note, socket_path, unpack


class TicketReceiver:
    """Calls `received(note)` for every note, from a thread of its own."""

    def __init__(self, run: Path, reader: Literal["prompt", "generate"], received: Callable[[Note], None]) -> None:
        self.malformed = 0
        """Number of datagrams dropped because they are no notes."""
        path = socket_path(run, reader)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._received = received
        threading.Thread(target=self._run, name="tickets", daemon=True).start()

    def _run(self) -> None:
        while True:
            note = unpack(self._socket.recv(MESSAGE.size + 1))
            if note is None:
                self.malformed += 1
            else:
                self._received(note)
