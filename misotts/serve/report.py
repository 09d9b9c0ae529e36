"""Lines for the operator, on stderr, as text or as JSON. Whether they are read never changes what the server does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import sys
from datetime import datetime, timezone

LONGEST_LINE = 4096
"""Bytes that a pipe takes at once when it is writable at all."""


_json = False
_SOURCE = re.compile(r"misotts: (?:(gateway|prompt|generate|decode|watermark) +)?")


def write_json() -> None:
    """From now on, write each line as a JSON object: `time`, `level`, `message`, and `source`, which is a stage,
    `gateway`, `launcher`, or `triton` for lines of its log."""
    global _json
    _json = True


def formed(line: str) -> str:
    """Return a line as it is written: as it is, or after `write_json` as a JSON object."""
    if not _json:
        return line
    found = _SOURCE.match(line)
    error = line.startswith("error: ")
    fields = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "level": "error" if error else "info",
        "source": (found[1] or "launcher") if found else "launcher" if error else "triton",
        "message": line[found.end() :] if found else line.removeprefix("error: "),
    }
    # An object must not be cut: its message is. How many bytes a character takes depends on its escape.
    while len((text := json.dumps(fields, ensure_ascii=False)).encode(errors="replace")) >= LONGEST_LINE:
        fields["message"] = fields["message"][: len(fields["message"]) // 2]
    return text


def report(line: str) -> None:
    """Write a line to stderr. It is dropped where it cannot be written at once: the reader has gone or has stopped, the
    disk is full."""
    if sys.stderr is None:  # descriptor 2 was closed at the start, and may be another file now
        return
    with contextlib.suppress(OSError):
        # The descriptor, because a line that stays in `sys.stderr` would fail again at the end and change the status.
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{formed(line)}\n".encode(errors="replace")[:LONGEST_LINE])
