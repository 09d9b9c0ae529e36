"""The launcher's connections to the stages and the gateway: their state, their heartbeats, and commands to them."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from misotts.serve.messages import Messages, encode
from misotts.serve.report import report
from misotts.serve.settings import GATEWAY, STAGES

SILENT_S = 20.0
"""A stage counts as hung when no heartbeat has come, or its worker has not finished a piece of work, for this long. The
longest single piece (10 s of audio through Mimi's encoder on a busy CPU) takes several seconds."""
QUIET_S = 5.0
"""A stage from which no heartbeat has come for this long is not ready, long before it counts as hung: Triton refuses
its calls, or they wait. Ten heartbeats are missing then, or two answers of tritonserver."""
GAP_S = 5.0
"""If the launcher itself has not run for this long (`docker pause`, a debugger), the stages have not run either: all
clocks start again. It looks at them ten times a second."""
TRITON = "tritonserver"
"""It sends nothing: the launcher asks it, and reports with `Control.heard` that it answers."""
STATES = ("loading", "ready", "failed")


@dataclass
class Status:
    """The state of a stage or the gateway, and its last heartbeat."""

    state: str = "starting"
    """starting, loading, ready, failed or dead."""
    report: dict[str, Any] = field(default_factory=dict)
    heard_at: float = 0.0
    progress_at: float = 0.0
    """Time at which `progress` in the report last changed."""


@dataclass(frozen=True)
class Event:
    """A change of a sender's state. `detail` is the part that it loads, or the reason of its failure or death."""

    sender: str
    """One of `STAGES`, or `GATEWAY`."""
    state: str
    detail: str


class Control:
    """Listens on the control socket, puts changes of state into `events`, and sends commands."""

    def __init__(self, path: str) -> None:
        """Raises OSError if no socket can be made at `path`."""
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.stages = {stage: Status() for stage in STAGES}
        self.gateway = Status()
        self._watched = {**self.stages, GATEWAY: self.gateway, TRITON: Status()}
        self._connections: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._looked_at = monotonic()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    @property
    def not_ready(self) -> list[str]:
        """The stages that are not ready."""
        return [stage for stage, status in self.stages.items() if status.state != "ready"]

    @property
    def states(self) -> dict[str, str]:
        """The state of each stage; `silent` if it is ready and has been silent for `QUIET_S`."""
        return {stage: "silent" if _is_silent(status) else status.state for stage, status in self.stages.items()}

    @property
    def ready(self) -> bool:
        """True if all stages are ready, and neither they nor tritonserver have been silent for `QUIET_S`."""
        return not self.not_ready and not any(_is_silent(status) for status in self._watched.values())

    @property
    def streams(self) -> int:
        """Number of streams by the last heartbeats: requests without a built prompt and utterances in generate, or, if
        there are more, streams with a caller that has not taken the last chunk from the gateway."""
        inside = self.stages["prompt"].report.get("waiting", 0) + self.stages["generate"].report.get("streams", 0)
        return int(max(inside, self.gateway.report.get("streams", 0)))

    def command(self, sender: str, command: str, **details: Any) -> None:
        """Send a command. Nothing happens if `sender` is not connected, has just died or reads nothing."""
        with self._lock, contextlib.suppress(KeyError, OSError):
            self._connections[sender].sendall(encode({"command": command, **details}), socket.MSG_DONTWAIT)

    def heard(self, process: str) -> None:
        """Note that a process which sends no heartbeats is alive."""
        status = self._watched[process]
        status.state, status.heard_at, status.progress_at = "ready", monotonic(), monotonic()

    def hung(self) -> str | None:
        """Return a process that is ready and has been silent or without progress for `SILENT_S`, if there is one.

        Call it several times a second: after a gap of `GAP_S` between two calls all clocks start again.
        """
        now = monotonic()
        gap, self._looked_at = now - self._looked_at, now
        for process, status in self._watched.items():
            if gap > GAP_S:
                status.heard_at = status.progress_at = now
            if status.state == "ready" and now - min(status.heard_at, status.progress_at) > SILENT_S:
                return process
        return None

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._listen, args=(connection,), name="control-stage", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        sender = None
        messages = Messages(connection)
        with contextlib.suppress(ConnectionError):  # the sender died before it had read every command
            for message in messages:
                if not _makes_sense(message):
                    messages.malformed += 1
                    continue
                sender = message["stage"]
                with self._lock:
                    self._connections[sender] = connection
                self._receive(sender, message)
        if messages.malformed:
            name = sender or "an unknown process"
            report(f"misotts: {name}: dropped {messages.malformed} messages that made no sense")
        if sender:
            self._change(sender, "dead", "its process ended")

    def _receive(self, sender: str, message: dict[str, Any]) -> None:
        status = self._watched[sender]
        status.heard_at = monotonic()
        if "admission" in message:
            self.command(GATEWAY, "admission", figures=message["admission"])
            return
        if "report" in message:
            report = message["report"]
            if "progress" not in report or report["progress"] != status.report.get("progress"):
                status.progress_at = status.heard_at
            status.report = report
            return
        if message["state"] == "ready":
            status.progress_at = status.heard_at
        self._change(sender, message["state"], message["detail"])
        if self.not_ready in ([], ["generate"]):
            self.command("generate", "others_ready")

    def _change(self, sender: str, state: str, detail: str) -> None:
        status = self._watched[sender]
        if status.state != "failed":  # the death of a failed stage is not reported
            status.state = state
            self.events.put(Event(sender, state, detail))


def _is_silent(status: Status) -> bool:
    return status.state == "ready" and monotonic() - status.heard_at > QUIET_S


def _makes_sense(message: dict[str, Any]) -> bool:
    """Return True if the fields that the launcher reads exist and have the right types."""
    if message.get("stage") not in (*STAGES, GATEWAY):
        return False
    if "admission" in message:
        return isinstance(message["admission"], dict)
    if "report" not in message:
        return message.get("state") in STATES and isinstance(message.get("detail"), str)
    report = message["report"]
    return isinstance(report, dict) and all(isinstance(report.get(name, 0), int) for name in ("waiting", "streams"))
