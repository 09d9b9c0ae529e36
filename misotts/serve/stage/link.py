"""A stage's connection to the launcher. Reports go to the launcher and commands come back, one JSON object a line.

When one of the two processes ends, however it ends, the kernel closes the connection: the launcher then reports the
stage as dead, and a stage without a launcher ends itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

HEARTBEAT_S = 0.5


class LauncherLink:
    """One stage's end of the connection."""

    def __init__(self, path: str, stage: str) -> None:
        self.draining = threading.Event()
        """Set by the command `drain`: the stage refuses new requests from then on."""
        self.others_ready = threading.Event()
        """Set by the command `others_ready`: all other stages have loaded, so the rest of the GPU memory is free."""
        self._stage = stage
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._send_lock = threading.Lock()
        threading.Thread(target=self._listen, name="launcher-link", daemon=True).start()

    def loading(self, part: str) -> None:
        self._send(state="loading", detail=part)

    def failed(self, reason: str) -> None:
        self._send(state="failed", detail=reason)

    def ready(self) -> None:
        self._send(state="ready", detail="")

    def start_heartbeat(self, report: Callable[[], dict[str, Any]]) -> None:
        """Send `report()` every `HEARTBEAT_S`. `idle_s` in it is the time since the worker last made progress."""

        def run() -> None:
            pause = threading.Event()
            while not pause.wait(HEARTBEAT_S):
                self._send(report=report())

        threading.Thread(target=run, name="launcher-heartbeat", daemon=True).start()

    def _send(self, **message: Any) -> None:
        line = json.dumps({"stage": self._stage, **message}) + "\n"
        # OSError: the launcher has ended, and `_listen` is about to end this process.
        with self._send_lock, contextlib.suppress(OSError):
            self._socket.sendall(line.encode())

    def _listen(self) -> None:
        events = {"drain": self.draining, "others_ready": self.others_ready}
        with contextlib.suppress(ConnectionError):  # the launcher ended before it had read every report
            for line in self._socket.makefile(encoding="utf-8"):
                events[json.loads(line)["command"]].set()
        os._exit(1)  # nothing would stop or watch this process any more
