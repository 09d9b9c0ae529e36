"""A stage's line to the launcher: what it is loading, that it is alive, and what the launcher wants of it.

One connection, one JSON object a line. When the stage's process dies, however it dies, the kernel closes the line, and
the launcher knows at once; when the launcher dies, the stage does too.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

BEAT_S = 0.5


class LauncherLink:
    """Reports of one stage to the launcher."""

    def __init__(self, path: str, stage: str) -> None:
        self._stage = stage
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._send_lock = threading.Lock()
        self._commands: dict[str, Callable[[], None]] = {}
        self._early: set[str] = set()
        """Commands that came before anything was to be done at them, such as a drain while the stage loads."""
        self._command_lock = threading.Lock()
        self._others_ready = threading.Event()
        self.on("others_ready", self._others_ready.set)
        threading.Thread(target=self._listen, name="launcher-link", daemon=True).start()

    def on(self, command: str, do: Callable[[], None]) -> None:
        """Run `do` when the launcher sends `command`; at once if it has been sent."""
        with self._command_lock:
            self._commands[command] = do
            early = command in self._early
            self._early.discard(command)
        if early:
            do()

    def loading(self, what: str) -> None:
        self._send(state="loading", what=what)

    def failed(self, why: str) -> None:
        self._send(state="failed", what=why)

    def ready(self) -> None:
        self._send(state="ready", what="")

    def wait_for_others(self) -> None:
        """Wait until all other stages have loaded, so that this one can take what GPU memory is left."""
        self._others_ready.wait()

    def beat(self, report: Callable[[], dict[str, Any]]) -> None:
        """Send `report()` every `BEAT_S` from now on. It holds `idle_s`, the age of the worker's last sign of life."""

        def run() -> None:
            pause = threading.Event()
            while not pause.wait(BEAT_S):
                self._send(state="beat", **report())

        threading.Thread(target=run, name="launcher-beat", daemon=True).start()

    def _send(self, **message: Any) -> None:
        line = json.dumps({"stage": self._stage, "pid": os.getpid(), **message}) + "\n"
        # OSError: the launcher is gone, and `_listen` is about to end the process.
        with self._send_lock, contextlib.suppress(OSError):
            self._socket.sendall(line.encode())

    def _listen(self) -> None:
        with contextlib.suppress(ConnectionError):  # it was killed with a report unread
            for line in self._socket.makefile(encoding="utf-8"):
                self._obey(json.loads(line)["command"])
        os._exit(1)  # without a launcher nobody would stop or watch this process

    def _obey(self, command: str) -> None:
        with self._command_lock:
            do = self._commands.get(command)
            if do is None:
                self._early.add(command)
        if do is not None:
            do()
