"""Files that appear whole or not at all, the CPU clock of a training, and lines of progress."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which appears at `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    with draft.open("wb") as file:
        yield file
    draft.replace(path)


class CpuClock:
    """CPU seconds of a training, over all the processes that have worked on it."""

    def __init__(self, before: float) -> None:
        self._before = before - time.process_time()

    def seconds(self) -> float:
        return self._before + time.process_time()


def log(message: str) -> None:
    """A line of progress, with the process's own CPU minutes: a paused process does not count."""
    print(f"{time.strftime('%H:%M:%S')} [{time.process_time() / 60:6.1f} min] {message}", flush=True)
