"""Lines for the operator, on stderr. Whether they are read never changes what the server does."""

from __future__ import annotations

import contextlib
import os
import select
import sys

LONGEST_LINE = 4096
"""Bytes that a pipe takes at once when it is writable at all."""


def report(line: str) -> None:
    """Write a line to stderr. It is dropped where it cannot be written at once: the reader has gone or has stopped, the
    disk is full."""
    if sys.stderr is None:  # descriptor 2 was closed at the start, and may be another file now
        return
    with contextlib.suppress(OSError):
        # The descriptor, because a line that stays in `sys.stderr` would fail again at the end and change the status.
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{line}\n".encode(errors="replace")[:LONGEST_LINE])
