"""A stage's line to the launcher, seen from the stage."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from misotts.serve.stage.link import LauncherLink


class FakeLauncher:
    """The other end of the line of one stage."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self.link = LauncherLink(str(path), "generate")
        self.line, _ = self._listener.accept()

    def send(self, command: str) -> None:
        self.line.sendall(b'{"command": "%s"}\n' % command.encode())


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the stage's process would have ended."""
    event = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _: event.set())
    return event


@pytest.mark.timeout(30)
def test_a_command_that_comes_while_the_stage_loads_is_obeyed_later(tmp_path: Path, ended: threading.Event) -> None:
    launcher = FakeLauncher(tmp_path / "control")
    launcher.send("drain")
    launcher.send("others_ready")
    launcher.link.wait_for_others()  # so that the drain has been read
    drained, again = threading.Event(), threading.Event()
    launcher.link.on("drain", drained.set)
    assert drained.is_set()
    launcher.link.on("drain", again.set)
    launcher.send("drain")
    assert again.wait(5)
    assert not ended.is_set()
    launcher.line.close()
    assert ended.wait(5)


def test_a_launcher_killed_with_a_report_unread_ends_the_stage(tmp_path: Path, ended: threading.Event) -> None:
    launcher = FakeLauncher(tmp_path / "control")
    launcher.link.ready()
    launcher.line.close()  # the connection is reset, not closed
    assert ended.wait(5)
