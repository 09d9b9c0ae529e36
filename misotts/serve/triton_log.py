"""Triton's output: all of it goes to a file of bounded size, and the warnings and errors of stages to stderr."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from logging import LogRecord, makeLogRecord
from logging.handlers import RotatingFileHandler
from pathlib import Path

from misotts.serve.report import report

ROLL_BYTES = 8 * 2**20
"""At this size a new file begins, and one older file is kept. TMPDIR, where they lie, is often in memory."""
REASON_S = 2.0
"""An error line of Triton's that is older than this is not taken for the reason of its end."""
STAGE_LINE = "misotts "
"""The log lines of stages begin with this."""

_ERROR = re.compile(r"(?:E\d{4} \S+ \d+ \S+\] |error: )(.*)")
"""An error in Triton's own log, or the last line of a tritonserver that gives up."""
_NO_GPU = re.compile("CUDA driver version is insufficient|CudaDriverHelper has not been initialized")
"""Errors that Triton always logs on a machine without a GPU. They do not end it."""


class TritonLog:
    """Copies what Triton prints, for as long as it prints."""

    def __init__(self, file: Path) -> None:
        self._files = (Path(f"{file}.1"), file)
        self._writer = _Writer(file, maxBytes=ROLL_BYTES, backupCount=1, encoding="utf-8", delay=True)
        self._error, self._error_at = "", 0.0

    def copy(self, lines: Iterable[str]) -> None:
        """Read `lines` to the end, even if they cannot be written: stages hang when their output is not read."""
        for line in lines:
            self._writer.emit(makeLogRecord({"msg": line.rstrip("\n")}))
            if line.startswith(STAGE_LINE) and " INFO " not in line:
                report(line.rstrip("\n"))
            if (error := _ERROR.match(line)) and not _NO_GPU.search(line):
                self._error, self._error_at = error[1], time.monotonic()

    def recent_error(self) -> str:
        """Return `; Triton says: ...` if Triton has logged an error in the last `REASON_S`, else an empty string."""
        is_recent = self._error and time.monotonic() - self._error_at < REASON_S
        return f"; Triton says: {self._error}" if is_recent else ""

    def save(self, target: Path) -> bool:
        """Copy the log to `target`. Return False if there is none, or if it cannot be copied."""
        parts = [file for file in self._files if file.exists()]
        try:
            with open(target, "wb") as whole:
                for part in parts:
                    with open(part, "rb") as log:
                        shutil.copyfileobj(log, whole)
        except OSError:
            return False
        return bool(parts)


class _Writer(RotatingFileHandler):
    def handleError(self, record: LogRecord) -> None:  # noqa: N802 (logging's name)
        """Lose a line that cannot be written."""
