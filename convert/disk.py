"""Checks for free disk space."""

from __future__ import annotations

import shutil
from pathlib import Path

from misotts.engines.table import EngineError


def check_disk(folder: Path, size: int) -> None:
    """Check that the disk of `folder` has `size` bytes free.

    Raises:
        EngineError: names the numbers.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise EngineError(f"{folder}: the disk has {free / 2**20:.0f} MiB free, {size / 2**20:.0f} MiB are needed")
