"""The access log: one JSON object per request, without its text, its audio and its key."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from misotts_gateway.callers import Caller


class AccessLog:
    """Appends a line to a file, or to standard output for `-`. A line that cannot be written is dropped."""

    def __init__(self, target: str | None) -> None:
        """Raises OSError if the file cannot be opened."""
        self._path = None if target in (None, "-") else Path(str(target))
        self._file: TextIO | None = sys.stdout if target == "-" else None
        if self._path:
            self._file = _open(self._path)

    def reopen(self) -> None:
        """Open the file anew if it has been moved away, as programs that rotate logs do. Called every few seconds."""
        if self._path is None or self._file is None:
            return
        try:
            if not (self._path.exists() and os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))):
                file = _open(self._path)
                self._file.close()
                self._file = file
        except OSError:  # the old file goes on
            pass

    def write(
        self,
        caller: Caller,
        *,
        duration_s: float,
        ttfa_s: float | None,
        audible_ttfa_s: float | None,
        leading_silence_s: float | None,
        audio_s: float,
        characters: int,
        outcome: str,
    ) -> None:
        """Write the line of a request that has ended. `outcome`: `eos`, `length` or the code of an error."""
        if self._file is None:
            return
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": caller.request_id,
            "tenant": caller.tenant,
            "key": caller.key.name if caller.key else "",
            "address": caller.address,
            "duration_s": round(duration_s, 3),
            "ttfa_s": None if ttfa_s is None else round(ttfa_s, 3),
            "audible_ttfa_s": None if audible_ttfa_s is None else round(audible_ttfa_s, 3),
            "leading_silence_s": None if leading_silence_s is None else round(leading_silence_s, 3),
            "audio_s": round(audio_s, 3),
            "characters": characters,
            "outcome": outcome,
        }
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except (OSError, ValueError):  # a full disk or a reader that has ended stops no speech
            pass


def _open(path: Path) -> TextIO:
    return path.open("a", encoding="utf-8")
