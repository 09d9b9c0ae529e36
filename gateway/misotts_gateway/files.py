"""Files that are read again when they change."""

from __future__ import annotations

from pathlib import Path


def file_version(path: Path) -> object:
    """Return a value that differs from earlier ones once the file has changed or has gone."""
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino
