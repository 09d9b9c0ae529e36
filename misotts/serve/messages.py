"""The launcher's connections carry JSON objects, one a line, in both directions."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

MAX_LINE = 2**20
"""Bytes of the longest line. A stage's report of half a second has some kilobytes."""


class Messages:
    """Reads a connection to its end, drops lines that are no JSON object, and counts them."""

    def __init__(self, connection: socket.socket) -> None:
        self.malformed = 0
        """Number of lines dropped. A reader that finds an object without sense adds to it."""
        self._file = connection.makefile("rb")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the objects.

        Raises:
            ConnectionError: the peer ended before it had read everything.
        """
        while line := self._file.readline(MAX_LINE):
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):  # ValueError: no JSON, or not UTF-8
                message = None
            if isinstance(message, dict):
                yield message
            else:
                self.malformed += 1


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as one line."""
    return json.dumps(message).encode() + b"\n"
