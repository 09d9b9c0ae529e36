"""The launcher and the real gateway with a program in place of tritonserver, which is quick to start."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from misotts.serve.local import RunningServer, start_server
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """Start one; it runs with the fake tritonserver."""
    fake = tmp_path / "tritonserver"
    fake.write_text(
        f"#!/bin/sh\nPYTHONPATH={ROOT}:$PYTHONPATH exec {sys.executable} -m tests.support.fake_tritonserver\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = start_server(demo_folder, stderr=subprocess.PIPE)
    yield server
    server.process.kill()
    server.process.wait()


def error_of(server: RunningServer) -> str:
    """Return the one line with which the server ends."""
    lines = server.process.communicate(timeout=60)[1].splitlines()
    assert server.process.returncode == 1
    (error,) = [line for line in lines if line.startswith("error: ")]
    return error


def test_a_triton_that_listens_on_a_port_is_refused(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRITON_TCP", "1")
    assert "tritonserver listens on TCP port" in error_of(request.getfixturevalue("server"))


def test_a_killed_gateway_ends_the_server(server: RunningServer) -> None:
    server.wait_until_ready()
    (gateway,) = [each for each in psutil.Process(server.process.pid).children() if "misotts_gateway" in each.cmdline()]
    gateway.kill()
    assert "gateway was killed by signal 9" in error_of(server)


@pytest.mark.long
def test_the_gateway_may_send_what_its_callers_have_not_read(server: RunningServer) -> None:
    """The launcher gives a gateway that has been told to end 2 s."""
    server.wait_until_ready()
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect(("127.0.0.1", server.ports.http))
        caller.sendall(b"GET /page/app.js HTTP/1.1\r\nhost: a\r\n\r\n" * 8)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(4)
        assert server.process.poll() is None
        raw = b""
        caller.settimeout(25)  # the kernel asks a full receiver again after 0.2, 0.4, ... 12.8 s
        while part := caller.recv(65_536):
            raw += part
    assert raw.count(b"HTTP/1.1 200 OK") == 8
    assert server.process.wait(20) == 0


def test_a_signal_after_the_last_stream_has_ended_is_no_failure(server: RunningServer) -> None:
    server.wait_until_ready()
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not all(each.is_running() and each.status() != "zombie" for each in children), limit_s=20)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert not [each for each in children if each.is_running()]
