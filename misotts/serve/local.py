"""A `misotts serve` on free ports for as long as a block runs: for the demo, the tests and the benchmarks."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from misotts.serve.settings import Ports

PYTHON = Path(sys.executable)
MODULE = "misotts.cli"
START_S = 120
STOP_S = 30

_own = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks this machine itself: never through a proxy, whatever `http_proxy` says."""


@dataclass(frozen=True)
class RunningServer:
    """A process of `misotts serve` that listens on 127.0.0.1."""

    process: subprocess.Popen[str]
    ports: Ports

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.ready}/metrics"

    @property
    def ready_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.ready}/ready"

    @property
    def is_ready(self) -> bool:
        try:
            return self.readiness()[0] == 200
        except OSError:
            return False

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of /ready.

        Raises:
            OSError: nothing answers.
        """
        try:
            with _own.open(self.ready_url, timeout=5) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metrics(self) -> dict[str, float]:
        """See `read_metrics`."""
        return read_metrics(self.metrics_url)

    def wait_until_ready(self, limit_s: float = START_S) -> None:
        """Wait until the server is ready.

        Raises:
            RuntimeError: it has ended, or is not ready after `limit_s`.
        """
        limit = time.monotonic() + limit_s
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                raise RuntimeError(f"misotts serve ended with status {self.process.returncode}")
            if self.is_ready:
                return
            time.sleep(0.1)
        raise RuntimeError(f"misotts serve was not ready after {limit_s:g} s")

    def stop(self) -> int:
        """Let the server drain; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


@contextlib.contextmanager
def running_server(
    model: Path, *options: str, python: Path = PYTHON, start_s: float = START_S, module: str = MODULE
) -> Iterator[RunningServer]:
    """Start `misotts serve` with `options`, wait until it is ready, and stop it at the end of the block. `python` runs
    it, as the command of `module`.

    Raises:
        RuntimeError: it did not become ready; the reason is on stderr.
    """
    server = start_server(model, options, python=python, module=module)
    try:
        server.wait_until_ready(start_s)
        yield server
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.stop()
        server.process.kill()
        server.process.wait()


def start_server(
    model: Path,
    options: Sequence[str] = (),
    stderr: int | None = None,
    python: Path = PYTHON,
    ports: Ports | None = None,
    module: str = MODULE,
) -> RunningServer:
    """Start `misotts serve` and return at once. `options` override those that are chosen here; None: free ports."""
    ports = ports or Ports(*free_ports(3))
    flags = [f"--{name}-port={port}" for name, port in asdict(ports).items()]
    # Tests and benchmarks fill the queue on purpose, on machines of any speed.
    flags += ["--host=127.0.0.1", "--allow-reference-key", "--admission=slots", "--max-wait=60"]
    command = [str(python), "-m", module, "serve", f"--model={model}", *flags, *options]
    return RunningServer(subprocess.Popen(command, text=True, stderr=stderr), ports)


def read_metrics(url: str) -> dict[str, float]:
    """Return the `misotts_...` metrics at `url` by name; those with labels are left out.

    Raises:
        OSError: nothing answers at `url`.
    """
    with _own.open(url, timeout=5) as response:
        text = response.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(misotts_\w+) (\S+)$", text, re.MULTILINE)}


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
