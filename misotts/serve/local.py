"""A server of one's own, on free ports, for as long as a block runs: for the demo, the tests and the benchmarks."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

START_S = 120
STOP_S = 30


@dataclass(frozen=True)
class RunningServer:
    """A `misotts serve` that has said it is ready."""

    process: subprocess.Popen[str]
    http_port: int
    grpc_port: int
    metrics_port: int
    ready_port: int

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def metrics(self) -> dict[str, float]:
        """See `read_metrics`."""
        return read_metrics(self.metrics_url)

    def stop(self) -> int:
        """Ask it to drain; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


@contextlib.contextmanager
def running_server(model: Path, *options: str) -> Iterator[RunningServer]:
    """Start `misotts serve` with `options`, wait until it is ready, stop it at the end of the block.

    Raises:
        RuntimeError: it did not become ready; its own words are on stderr.
    """
    server = start_server(model, options)
    try:
        wait_until_ready(server)
        yield server
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.stop()
        server.process.kill()
        server.process.wait()


def start_server(model: Path, options: Sequence[str] = (), stderr: int | None = None) -> RunningServer:
    """Start `misotts serve` and return at once; later flags in `options` win over those chosen here."""
    ports = dict(zip(("http_port", "grpc_port", "metrics_port", "ready_port"), free_ports(4), strict=True))
    flags = [f"--{name.replace('_', '-')}={port}" for name, port in ports.items()]
    flags += ["--host=127.0.0.1", "--allow-reference-key"]
    command = [sys.executable, "-m", "misotts.cli", "serve", f"--model={model}", *flags, *options]
    return RunningServer(subprocess.Popen(command, text=True, stderr=stderr), **ports)


def wait_until_ready(server: RunningServer) -> None:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit:
        if server.process.poll() is not None:
            raise RuntimeError(f"misotts serve ended with status {server.process.returncode}")
        if is_ready(server):
            return
        time.sleep(0.1)
    raise RuntimeError(f"misotts serve was not ready after {START_S} s")


def is_ready(server: RunningServer) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ready_port}/ready", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def read_metrics(url: str) -> dict[str, float]:
    """Return the `misotts_...` metrics of a metrics port by name; those with labels are left out.

    Raises:
        OSError: nothing answers at `url`.
    """
    with urllib.request.urlopen(url, timeout=5) as response:
        text = response.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(misotts_\w+) (\S+)$", text, re.MULTILINE)}


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
