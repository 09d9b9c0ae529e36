"""A stage's connection to the launcher, seen from the stage."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from misotts.serve.stage.link import LauncherLink


class FakeLauncher:
    """The launcher's end of one stage's connection."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self.link = LauncherLink(str(path), "generate")
        self.connection, _ = self._listener.accept()

    def send(self, command: str) -> None:
        self.connection.sendall(b'{"command": "%s"}\n' % command.encode())


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the stage's process would have ended."""
    event = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _: event.set())
    return event


@pytest.mark.timeout(30)
def test_commands_set_events_and_a_closed_connection_ends_the_stage(tmp_path: Path, ended: threading.Event) -> None:
    launcher = FakeLauncher(tmp_path / "control")
    launcher.send("drain")
    assert launcher.link.draining.wait(5)
    assert not launcher.link.others_ready.is_set()
    launcher.send("others_ready")
    assert launcher.link.others_ready.wait(5)
    assert not ended.is_set()
    launcher.connection.close()
    assert ended.wait(5)


def test_a_launcher_killed_before_it_has_read_a_report_ends_the_stage(tmp_path: Path, ended: threading.Event) -> None:
    launcher = FakeLauncher(tmp_path / "control")
    launcher.link.ready()
    launcher.connection.close()  # the connection is reset, not closed
    assert ended.wait(5)


@pytest.mark.parametrize("module", ["worker", "link", "acknowledge", "metrics"])
def test_modules_that_do_not_need_triton_load_without_it(module: str) -> None:
    command = [sys.executable, "-c", f"import misotts.serve.stage.{module}"]
    assert subprocess.run(command, check=False).returncode == 0
