"""The folder of one run of the server: settings, sockets, Triton's log.

A launcher that is killed leaves its folder, with the keys in it, and shared memory behind. The next start removes both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from misotts.serve.settings import SETTINGS

SHARED_MEMORY = Path("/dev/shm")
LOCK = "lock"
"""A file that the launcher holds locked. The kernel unlocks it when the launcher ends, however it ends."""


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """Make a locked folder in `TMPDIR` for as long as the block runs. Folders of dead launchers are removed first.

    Raises:
        OSError: the folder cannot be made.
    """
    for left_behind in Path(tempfile.gettempdir()).glob("misotts-*"):
        with contextlib.suppress(OSError):  # another start removes it too, or it belongs to another user
            _remove_if_dead(left_behind)
    run = Path(tempfile.mkdtemp(prefix="misotts-"))
    try:
        with open(run / "new-lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (run / "new-lock").rename(run / LOCK)  # so that no other start ever finds it unlocked
            yield run
    finally:
        _remove(run)


def shared_memory_prefix(run: Path) -> str:
    """Return the beginning of the names of the stages' regions in /dev/shm."""
    return f"misotts_{run.name}_"


def close_shared_memory(run: Path) -> None:
    """Close the stages' regions to other users. Triton makes them readable by all, whatever the umask."""
    for region in SHARED_MEMORY.glob(f"{shared_memory_prefix(run)}*"):
        with contextlib.suppress(FileNotFoundError):  # the stage has just ended
            if region.stat().st_mode & 0o077:
                region.chmod(0o600)


def _remove_if_dead(run: Path) -> None:
    """Remove a run folder if its lock is free. One without a lock file may be new, and has no keys in it yet.

    Raises:
        OSError: its launcher lives, or the folder cannot be read.
    """
    if run.is_symlink() or run.stat().st_uid != os.geteuid():
        return
    with open(run / LOCK, "r+", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(run)


def _remove(run: Path) -> None:
    """Remove regions and keys first: without its lock file a folder that is removed in part would never be found."""
    for region in SHARED_MEMORY.glob(f"{shared_memory_prefix(run)}*"):
        with contextlib.suppress(OSError):  # another start removes it too, or it belongs to another user
            region.unlink()
    (run / SETTINGS).unlink(missing_ok=True)
    shutil.rmtree(run, ignore_errors=True)
