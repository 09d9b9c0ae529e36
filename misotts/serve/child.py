"""A child of the launcher, tritonserver or the gateway, from its start to its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

_prctl = ctypes.CDLL(None).prctl


class Child:
    """A process that is the leader of a process group; its own children belong to that."""

    def __init__(self, name: str, read: Callable[[Iterable[str]], None]) -> None:
        """`name` is that of the messages. `read` gets the lines that the child prints, in a thread of their own; it
        must read them to the end, or the child hangs."""
        self.name = name
        self._read = read
        self._process: subprocess.Popen[str] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str], stdout_too: bool = False) -> None:
        """Start it. What it prints to stderr is read, and to stdout as well if `stdout_too`."""
        output, end = os.pipe()
        try:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdout=end if stdout_too else None,
                stderr=end,
                text=True,
                start_new_session=True,  # so that Ctrl-C reaches only the launcher, which drains first
                preexec_fn=_die_with_parent,
            )
        finally:
            os.close(end)
        self._reader = threading.Thread(target=self._read_all, args=(output,), name=self.name, daemon=True)
        self._reader.start()

    def _read_all(self, output: int) -> None:
        with open(output, encoding="utf-8", errors="replace") as lines:
            self._read(lines)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The status with which it ended, as `Popen` has it; None if it runs or was never started."""
        return None if self._process is None else self._process.poll()

    def describe_end(self, observed: str) -> str:
        """Return how it ended, or `observed`, if that was noticed of one that goes on."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        self._reader.join(0.2)  # its last lines may still be in the pipe
        return observed if self.status is None else describe_end(self.name, self.status)

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it and its children, if there is one, and wait for its end."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def describe_end(name: str, status: int) -> str:
    """Return how a process ended, by its status as `Popen` has it."""
    if status >= 0:
        return f"{name} ended with status {status}"
    killer = ", perhaps by the kernel because memory ran out (see dmesg)" if status == -signal.SIGKILL else ""
    return f"{name} was killed by signal {-status}{killer}"


def _die_with_parent() -> None:
    """In the child before exec: have the kernel kill it when the launcher is killed."""
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
