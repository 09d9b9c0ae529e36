"""Triton's output: a file of bounded size for all of it, stderr for what the stages complain of."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

ROLL_BYTES = 8 * 2**20
"""The file begins anew at this size, and the one before is kept: TMPDIR is often memory."""
REASON_S = 2.0
"""What Triton complained of longer before its end is not the reason of it."""
STAGE_LINE = "misotts "
"""Stages begin their log lines with this; the rest of Triton's output goes to the file alone."""

_COMPLAINT = re.compile(r"(?:E\d{4} \S+ \d+ \S+\] |error: )(.*)")
"""An error line of Triton's own log, or its last words."""
_NO_GPU = re.compile("CUDA driver version is insufficient|CudaDriverHelper has not been initialized")
"""Triton's usual complaints on a machine without a GPU, which it does not die of."""


class TritonLog:
    """Copies what Triton prints, for as long as it prints."""

    def __init__(self, file: Path) -> None:
        self._path, self._older = file, file.with_suffix(".older")
        self._file: IO[bytes] | None = None
        self._size = 0
        self._complaint, self._complained_at = "", 0.0

    def copy(self, lines: Iterable[str]) -> None:
        """Read `lines` to the end, whatever cannot be written: a pipe that nobody reads would hang every stage at its
        next line."""
        for line in lines:
            with contextlib.suppress(OSError):
                self._write(line.encode())
            if line.startswith(STAGE_LINE) and " INFO " not in line:
                with contextlib.suppress(OSError):
                    sys.stderr.write(line)
            if (complaint := _COMPLAINT.match(line)) and not _NO_GPU.search(line):
                self._complaint, self._complained_at = complaint[1], time.monotonic()

    def complaint(self) -> str:
        """`; Triton says: ...` if it has just complained of something, else nothing: a server that gives up takes its
        stages with it."""
        recent = self._complaint and time.monotonic() - self._complained_at < REASON_S
        return f"; Triton says: {self._complaint}" if recent else ""

    def keep(self, kept: Path) -> bool:
        """Copy what there is to `kept`; whether that could be done."""
        parts = [part for part in (self._older, self._path) if part.exists()]
        try:
            with open(kept, "wb") as whole:
                for part in parts:
                    with open(part, "rb") as log:
                        shutil.copyfileobj(log, whole)
        except OSError:
            return False
        return bool(parts)

    def _write(self, data: bytes) -> None:
        if self._file is None or self._size + len(data) > ROLL_BYTES:
            self._begin()
        assert self._file is not None
        self._size += self._file.write(data)

    def _begin(self) -> None:
        """A new file; one that cannot be set aside is lost, not continued."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._path.replace(self._older)
        self._file = open(self._path, "wb", buffering=0)  # noqa: SIM115
        self._size = 0


def ending(status: int) -> str:
    """How tritonserver ended, by the status that `Popen` has of it."""
    if status >= 0:
        return f"tritonserver ended with status {status}"
    killer = ", perhaps by the kernel because memory ran out (see dmesg)" if status == -signal.SIGKILL else ""
    return f"tritonserver was killed by signal {-status}{killer}"
