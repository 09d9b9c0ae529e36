"""The control connection to the launcher, if it has started this gateway: one JSON object a line, in both directions.

When one of the two ends, the kernel closes the connection; a gateway without its launcher ends.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from misotts_gateway.admission import Admission

SILENT_S = 25.0
"""A launcher that says nothing for this long is lost: it reports its state twice a second."""
REPORT_S = 0.5
MAX_LINE = 2**16


class LauncherLink:
    """The gateway's end of the connection.

    Attributes:
        state: the launcher's last report: `ready`, `phase`, `stages`, `streams`, `model`.
        draining: set by the command `drain`.
        lost: set when the connection has ended or the launcher is silent.
    """

    def __init__(self, malformed: Callable[[], None], admission: Admission) -> None:
        """`malformed()` is called for every line that cannot be read, `admission` gets the figures of generate."""
        self.state: dict[str, Any] = {"ready": False, "phase": "starting"}
        self.draining = asyncio.Event()
        self.lost = asyncio.Event()
        self._malformed, self._admission = malformed, admission
        self._writer: asyncio.StreamWriter | None = None
        self._heard_at = self._looked_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def connect(self, path: Path) -> None:
        """Raises OSError if nothing listens at `path`."""
        reader, self._writer = await asyncio.open_unix_connection(str(path), limit=MAX_LINE)
        self._task = asyncio.create_task(self._listen(reader))

    def send(self, **message: Any) -> None:
        """Send a message. It is dropped when the launcher has ended or does not read."""
        writer = self._writer
        if writer and not self.lost.is_set() and writer.transport.get_write_buffer_size() < MAX_LINE:
            writer.write(json.dumps({"stage": "gateway", **message}).encode() + b"\n")

    def check(self) -> None:
        """Called every second or so: set `lost` after `SILENT_S` of silence while this process itself ran."""
        now = time.monotonic()
        if now - self._looked_at > SILENT_S / 4:
            self._heard_at = now  # this process was stopped: what the launcher said meanwhile is still unread
        self._looked_at = now
        if self._writer and now - self._heard_at > SILENT_S:
            self.lost.set()

    def close(self) -> None:
        if self._task:
            self._task.cancel()
        if self._writer:
            self._writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # a line beyond the limit, which has been dropped
                self._malformed()
                continue
            except OSError:
                line = b""
            if not line:
                break
            self._heard_at = time.monotonic()
            self._read(line)
        self.lost.set()

    def _read(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            command = message["command"]
            if command == "admission":
                self._admission.hear(message["figures"])
        except (ValueError, KeyError, TypeError, RecursionError):
            self._malformed()
            return
        if command == "drain":
            self.draining.set()
        elif command == "state":
            self.state = {name: value for name, value in message.items() if name != "command"}
