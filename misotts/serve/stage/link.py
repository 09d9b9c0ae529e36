"""A stage's connection to the launcher. Reports go to the launcher and commands come back.

When a stage ends, however it ends, the kernel closes the connection, and the launcher reports the stage as dead. When
the launcher ends, the kernel kills the stage.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from misotts.serve.messages import Messages, encode

HEARTBEAT_S = 0.5


class LauncherLink:
    """One stage's end of the connection."""

    def __init__(self, path: str, stage: str) -> None:
        self.others_ready = threading.Event()
        """Set by the command `others_ready`: all other stages have loaded, so the rest of the GPU memory is free."""
        self._stage = stage
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._kept_open = _killed_with(path)
        self._messages = Messages(self._socket)
        self._send_lock = threading.Lock()
        threading.Thread(target=self._listen, name="launcher-link", daemon=True).start()

    @property
    def malformed(self) -> int:
        """Number of commands that were dropped because they made no sense."""
        return self._messages.malformed

    def loading(self, part: str) -> None:
        self._send(state="loading", detail=part)

    def failed(self, reason: str) -> None:
        self._send(state="failed", detail=reason)

    def ready(self) -> None:
        self._send(state="ready", detail="")

    def start_heartbeat(self, report: Callable[[], dict[str, Any]]) -> None:
        """Send `report()` every `HEARTBEAT_S`. `progress` in it changes whenever the stage's work goes on."""

        def run() -> None:
            pause = threading.Event()
            while not pause.wait(HEARTBEAT_S):
                self._send(report=report())

        threading.Thread(target=run, name="launcher-heartbeat", daemon=True).start()

    def publish(self, admission: dict[str, Any]) -> None:
        """Send what the gateway refuses requests from: see `misotts_gateway.admission`."""
        self._send(admission=admission)

    def _send(self, **message: Any) -> None:
        # OSError: the launcher has ended, and the kernel is about to kill this process.
        with self._send_lock, contextlib.suppress(OSError):
            self._socket.sendall(encode({"stage": self._stage, **message}))

    def _listen(self) -> None:
        with contextlib.suppress(ConnectionError):  # the launcher ended before it had read every report
            for message in self._messages:
                if message.get("command") == "others_ready":
                    self.others_ready.set()
                else:
                    self._messages.malformed += 1


def _killed_with(path: str) -> socket.socket:
    """Have the kernel kill this process when that which listens at `path` ends; return a connection to keep open.

    No thread of Python could do that: when the launcher is killed, and tritonserver with it, the stub's main thread
    can wait for tritonserver for ever while it holds Python's lock.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(connection, fcntl.F_SETFL, os.O_ASYNC)  # a signal when the other end is closed, which never sends
    return connection
