"""The launcher's connections to the stages: their state, their heartbeats, and commands to them."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from misotts.serve.settings import STAGES

SILENT_S = 20.0
"""A stage counts as hung when no heartbeat has come, or its worker has not finished a piece of work, for this long. The
longest single piece (10 s of audio through Mimi's encoder on a busy CPU) takes several seconds."""


@dataclass
class StageStatus:
    """The state of one stage, and its last heartbeat."""

    state: str = "starting"
    """starting, loading, ready, failed or dead."""
    report: dict[str, Any] = field(default_factory=dict)
    heard_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class StageEvent:
    """A change of a stage's state. `detail` is the part that it loads, or the reason of its failure or death."""

    stage: str
    state: str
    detail: str


class Control:
    """Listens on the control socket, puts changes of state into `events`, and sends commands to the stages."""

    def __init__(self, path: str) -> None:
        """Raises OSError if no socket can be made at `path`."""
        self.events: queue.SimpleQueue[StageEvent] = queue.SimpleQueue()
        self.stages = {stage: StageStatus() for stage in STAGES}
        self._connections: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    @property
    def ready(self) -> bool:
        return all(status.state == "ready" for status in self.stages.values())

    @property
    def streams(self) -> int:
        """Number of requests without a built prompt, and of utterances in generate, by the last heartbeats."""
        return int(self.stages["prompt"].report.get("waiting", 0) + self.stages["generate"].report.get("streams", 0))

    def command(self, command: str, stage: str) -> None:
        """Send a command to a stage. Nothing happens if the stage is not connected."""
        with self._lock, contextlib.suppress(KeyError, OSError):  # OSError: it has just died, which `_listen` reports
            self._connections[stage].sendall(json.dumps({"command": command}).encode() + b"\n")

    def hung_stage(self) -> str | None:
        """Return a stage that is ready and has been silent for `SILENT_S`, if there is one."""
        now = time.monotonic()
        for stage, status in self.stages.items():
            idle_s = status.report.get("idle_s", 0.0)
            if status.state == "ready" and (now - status.heard_at > SILENT_S or idle_s > SILENT_S):
                return stage
        return None

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._listen, args=(connection,), name="control-stage", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        stage = ""
        with contextlib.suppress(ConnectionError):  # the stage died before it had read every command
            for line in connection.makefile(encoding="utf-8"):
                message = json.loads(line)
                stage = message["stage"]
                with self._lock:
                    self._connections[stage] = connection
                self._receive(stage, message)
        if stage:
            self._change(stage, "dead", "its process ended")

    def _receive(self, stage: str, message: dict[str, Any]) -> None:
        status = self.stages[stage]
        status.heard_at = time.monotonic()
        if "report" in message:
            status.report = message["report"]
            return
        self._change(stage, message["state"], message["detail"])
        if all(other.state == "ready" for name, other in self.stages.items() if name != "generate"):
            self.command("others_ready", "generate")

    def _change(self, stage: str, state: str, detail: str) -> None:
        status = self.stages[stage]
        if status.state != "failed":  # the death of a failed stage is not reported
            status.state = state
            self.events.put(StageEvent(stage, state, detail))
