"""The launcher's end of the stages' lines: what each stage last said, and that it still says something."""

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
"""A stage that says nothing, or whose worker makes no pass, for this long counts as dead. Long, because a stage's
longest single piece of work (10 s of audio through Mimi's encoder on a busy CPU) takes several seconds."""


@dataclass
class StageStatus:
    """What is known of one stage."""

    state: str = "starting"
    """starting, loading, ready, failed or dead."""
    what: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    heard: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class StageEvent:
    """A stage's state changed."""

    stage: str
    state: str
    what: str


class Control:
    """Listens on the control socket. State changes go to `events`; commands go out to the stages."""

    def __init__(self, path: str) -> None:
        self.events: queue.SimpleQueue[StageEvent] = queue.SimpleQueue()
        self.stages = {stage: StageStatus() for stage in STAGES}
        self._lines: dict[str, socket.socket] = {}
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
        """Requests whose prompt is not made yet and utterances in generate, as of the stages' last beats."""
        return int(self.stages["prompt"].report.get("waiting", 0) + self.stages["generate"].report.get("streams", 0))

    def command(self, command: str, *stages: str) -> None:
        with self._lock:
            for stage in stages:
                with contextlib.suppress(KeyError, OSError):  # it has just died, which `_listen` reports
                    self._lines[stage].sendall(json.dumps({"command": command}).encode() + b"\n")

    def silent(self) -> str | None:
        """A stage that has loaded and no longer gives a sign of life."""
        now = time.monotonic()
        for stage, status in self.stages.items():
            idle = status.report.get("idle_s", 0.0)
            if status.state == "ready" and (now - status.heard > SILENT_S or idle > SILENT_S):
                return stage
        return None

    def _accept(self) -> None:
        while True:
            line, _ = self._listener.accept()
            threading.Thread(target=self._listen, args=(line,), name="control-line", daemon=True).start()

    def _listen(self, line: socket.socket) -> None:
        stage = ""
        with contextlib.suppress(ConnectionError):  # it died with a command unread
            for text in line.makefile(encoding="utf-8"):
                message = json.loads(text)
                stage = message["stage"]
                with self._lock:
                    self._lines[stage] = line
                self._hear(stage, message)
        if stage:
            self._change(stage, "dead", "its process ended")

    def _hear(self, stage: str, message: dict[str, Any]) -> None:
        status = self.stages[stage]
        status.heard = time.monotonic()
        if message["state"] == "beat":
            status.report = message
        else:
            self._change(stage, message["state"], message["what"])
            if all(s.state == "ready" for name, s in self.stages.items() if name != "generate"):
                self.command("others_ready", "generate")

    def _change(self, stage: str, state: str, what: str) -> None:
        status = self.stages[stage]
        if status.state != "failed":  # a failed stage's death is no news
            status.state, status.what = state, what
            self.events.put(StageEvent(stage, state, what))
