"""The process of tritonserver, from its start to its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from misotts.serve.triton_log import TritonLog


class TritonProcess:
    """tritonserver, the leader of a process group that its stages belong to."""

    def __init__(self, log_file: Path) -> None:
        self.log = TritonLog(log_file)
        self._process: subprocess.Popen[str] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that Ctrl-C reaches only the launcher, which drains first
            preexec_fn=_die_with_parent,
        )
        output = self._process.stdout
        self._log_thread = threading.Thread(target=self.log.copy, args=(output,), name="log", daemon=True)
        self._log_thread.start()

    @property
    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def explain_end(self, observed: str) -> str:
        """Return the reason of an end of which `observed` was noticed first: when tritonserver ends, its stages do
        too."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        self._log_thread.join(0.2)  # its last lines may still be in the pipe
        status = self._process.returncode
        if status == -signal.SIGKILL:  # nothing that it logged before can be the reason
            return describe_end(status)
        return (observed if status is None else describe_end(status)) + self.log.recent_error()

    def stop(self, limit_s: float) -> None:
        """Stop tritonserver and its stages, by force after `limit_s`."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)
        self.kill()
        self._process.wait()

    def kill(self) -> None:
        """Kill tritonserver and its stages."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def describe_end(status: int) -> str:
    """Return how tritonserver ended, by its status as `Popen` has it."""
    if status >= 0:
        return f"tritonserver ended with status {status}"
    killer = ", perhaps by the kernel because memory ran out (see dmesg)" if status == -signal.SIGKILL else ""
    return f"tritonserver was killed by signal {-status}{killer}"


def _die_with_parent() -> None:
    """In the child before exec: have the kernel kill tritonserver when the launcher is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
