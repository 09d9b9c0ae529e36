"""The folder of one start of the server: settings, sockets, Triton's log. A killed launcher leaves it behind, with its
keys, and the stages' shared memory; the next start removes both."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
LOCK = "lock"
"""A file that the launcher holds locked. The kernel frees it when the launcher ends, however it ends."""


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A locked folder in `TMPDIR` for as long as the block runs; what dead launchers left there goes first.

    Raises:
        OSError: none can be written there.
    """
    for left in Path(tempfile.gettempdir()).glob("misotts-*"):
        with contextlib.suppress(OSError):  # it goes just now, or is another user's
            _remove_if_dead(left)
    run = Path(tempfile.mkdtemp(prefix="misotts-"))
    try:
        with open(run / "new-lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (run / "new-lock").rename(run / LOCK)  # there at no time without being held
            yield run
    finally:
        _remove(run)


def shared_memory_prefix(run: Path) -> str:
    """Names the stubs' regions in /dev/shm, which a killed server leaves behind."""
    return f"misotts_{run.name}_"


def _remove_if_dead(run: Path) -> None:
    """Without a lock file it may be about to be locked: it has no keys yet.

    Raises:
        OSError: its launcher lives, or it cannot be looked at.
    """
    if run.is_symlink() or run.stat().st_uid != os.geteuid():
        return
    with open(run / LOCK, "r+", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(run)


def _remove(run: Path) -> None:
    """Regions and keys first: once the lock is gone nobody takes up what is interrupted here."""
    for region in SHARED_MEMORY.glob(f"{shared_memory_prefix(run)}*"):
        with contextlib.suppress(OSError):  # another start removes it too, or it is another user's
            region.unlink()
    (run / "settings.json").unlink(missing_ok=True)
    shutil.rmtree(run, ignore_errors=True)
