"""A stage's connection to the launcher, seen from the stage."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from misotts.serve.stage.link import LauncherLink
from tests.support.waiting import wait_until

Pair = tuple[LauncherLink, socket.socket]


@pytest.fixture
def connected(tmp_path: Path) -> Pair:
    """A stage's link, and the launcher's end of the connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        link = LauncherLink(str(tmp_path / "control"), "generate")
        return link, listener.accept()[0]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the stage's process would have ended."""
    event = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _: event.set())
    return event


@pytest.mark.timeout(30)
def test_a_command_sets_its_event_and_a_closed_connection_ends_the_stage(
    connected: Pair, ended: threading.Event
) -> None:
    link, launcher = connected
    launcher.sendall(b'\xff\n[]\n{"command": "sing"}\n{"command": ["others_ready"]}\n')
    wait_until(lambda: link.malformed == 4)
    assert not link.others_ready.is_set()
    launcher.sendall(b'{"command": "others_ready"}\n')
    assert link.others_ready.wait(5)
    assert not ended.is_set()
    launcher.close()
    assert ended.wait(5)


def test_a_launcher_killed_before_it_has_read_a_report_ends_the_stage(connected: Pair, ended: threading.Event) -> None:
    link, launcher = connected
    link.ready()
    launcher.close()  # the connection is reset, not closed
    assert ended.wait(5)


@pytest.mark.parametrize("module", ["worker", "link", "acknowledge", "metrics"])
def test_modules_that_do_not_need_triton_load_without_it(module: str) -> None:
    command = [sys.executable, "-c", f"import misotts.serve.stage.{module}"]
    assert subprocess.run(command, check=False).returncode == 0
