"""The servers of a fleet on this machine, which keep their ports when they are started again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from misotts.serve.local import RunningServer, free_ports, start_server
from misotts.serve.settings import Ports

DRAIN_S = 60.0
START_S = 400.0
"""A start takes 8 s on a quiet machine."""


class Replica:
    """One server, which can be started again; what it prints is in `log`.

    Attributes:
        server: the process of now.
    """

    def __init__(self, model: Path, ports: Ports, options: Sequence[str], log: Path) -> None:
        self._model, self._options, self._log = model, options, log
        self.ports = ports
        self.server = self._started()

    def restart(self) -> float:
        """Drain the server and start it again; return the seconds until it is ready.

        Raises:
            subprocess.TimeoutExpired: it did not stop.
            RuntimeError: it stopped with an error, or did not become ready.
        """
        began = time.monotonic()
        self.server.process.terminate()
        status = self.server.process.wait(DRAIN_S + 20)
        if status:
            raise RuntimeError(f"the drained server ended with status {status}")
        self.start()
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill every process of the server at once, as the loss of its machine would."""
        launcher = psutil.Process(self.server.process.pid)
        for each in [launcher, *launcher.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.server.process.wait()

    def start(self) -> None:
        """Start the server and wait until it is ready; raises RuntimeError if it does not become so."""
        self.server = self._started()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Raises RuntimeError if the server does not become ready."""
        try:
            self.server.wait_until_ready(START_S)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {self._log.read_text()[-1000:]}") from None

    def _started(self) -> RunningServer:
        with self._log.open("a") as log:
            return start_server(self._model, self._options, stderr=log.fileno(), ports=self.ports)


@contextlib.contextmanager
def running_replicas(model: Path, count: int, folder: Path, *options: str) -> Iterator[list[Replica]]:
    """Run `count` servers that believe a proxy on this machine; their logs are in `folder`.

    Raises:
        RuntimeError: one did not become ready.
    """
    numbers = free_ports(3 * count)
    ports = [Ports(*numbers[3 * n : 3 * n + 3]) for n in range(count)]
    flags = ["--trusted-proxies=127.0.0.1", f"--drain-seconds={DRAIN_S:g}", *options]
    replicas: list[Replica] = []
    try:
        for number, each in enumerate(ports):  # one after the other: two would load at half the speed
            replicas.append(Replica(model, each, flags, folder / f"replica-{number}.log"))
            replicas[-1].wait_until_ready()
        yield replicas
    finally:
        for replica in replicas:
            if replica.server.process.poll() is None:
                replica.kill()
