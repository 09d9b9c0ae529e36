"""A stage's connection to the launcher, seen from the stage."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import wait_until


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The launcher's control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        yield listener


STAGE = """
import ctypes, sys
from misotts.serve.stage.link import LauncherLink

link = LauncherLink(sys.argv[1], "generate")
link.ready()
if sys.argv[2] == "waits with Python's lock":
    ctypes.PyDLL(None).pause()
link.others_ready.wait()
print(link.malformed, flush=True)
ctypes.CDLL(None).pause()
"""


@contextmanager
def stage(listener: socket.socket, what: str) -> Iterator[tuple[subprocess.Popen[str], list[socket.socket]]]:
    """A process with a stage's link, and the launcher's ends of its connections."""
    command = [sys.executable, "-c", STAGE, listener.getsockname(), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        listener.settimeout(30)
        try:
            yield process, [listener.accept()[0] for _ in range(2)]
        finally:
            process.kill()


def test_a_command_sets_its_event(listener: socket.socket) -> None:
    with stage(listener, "") as (process, (launcher, _)):
        launcher.sendall(b'\xff\n[]\n{"command": "sing"}\n{"command": ["others_ready"]}\n')
        launcher.sendall(b'{"command": "others_ready"}\n')
        assert process.stdout
        assert process.stdout.readline() == "4\n"
        assert process.poll() is None


@pytest.mark.parametrize("what", ["", "waits with Python's lock"])
def test_a_stage_ends_with_its_launcher(listener: socket.socket, what: str) -> None:
    with stage(listener, what) as (process, connections):
        wait_until(lambda: connections[0].recv(1, socket.MSG_PEEK) != b"")  # a report that the launcher does not read
        time.sleep(0.2)
        assert process.poll() is None
        for connection in connections:
            connection.close()
        assert process.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("module", ["worker", "link", "acknowledge", "metrics"])
def test_modules_that_do_not_need_triton_load_without_it(module: str) -> None:
    command = [sys.executable, "-c", f"import misotts.serve.stage.{module}"]
    assert subprocess.run(command, check=False).returncode == 0
