"""The folder of one run of the server: settings, sockets, Triton's log.

A launcher that is killed leaves its folder, with the keys in it, and shared memory behind. The next start removes both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from misotts.files import folder_fault
from misotts.serve.settings import SETTINGS

SHARED_MEMORY = Path("/dev/shm")
LOCK = "lock"
"""A file that the launcher holds locked. The kernel unlocks it when the launcher ends, however it ends."""


PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+@,=-]+")
"""Triton hands paths in the run folder to a shell, and gRPC takes that of its socket for a URI; neither quotes them."""
LONGEST_PATH = 107 - len("/misotts-12345678/acknowledge")
"""The kernel's limit for the path of a socket, less the longest one below `TMPDIR`."""
FREE_BYTES = 64 * 2**20
"""For Triton's log, which is bounded, and its Python backend."""


class RunFolderError(RuntimeError):
    """The folder of temporary files cannot be used; the message is one line."""


def temporary_folder_fault(folder: Path) -> str | None:
    """Return why run folders cannot be made in `folder`, in words that follow its name; None if they can."""
    if not PLAIN_PATH.fullmatch(str(folder)):
        return "may have only letters of ASCII, digits and _ . / + @ , = - in its path"
    if len(str(folder)) > LONGEST_PATH:
        return (
            f"must be at most {LONGEST_PATH} characters long, as a socket's path is limited; it is {len(str(folder))}"
        )
    if fault := folder_fault(folder):
        return fault
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"may not be written by this user (uid {os.geteuid()})"
    if (free := shutil.disk_usage(folder).free) < FREE_BYTES:
        return f"has {free // 2**20} MiB free; {FREE_BYTES // 2**20} MiB are needed"
    if os.statvfs(folder).f_flag & os.ST_NOEXEC and not shutil.which("tritonserver"):
        return "is mounted noexec, but Triton's Python backend must run from there"
    return None


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """Make a locked folder in `TMPDIR` for as long as the block runs. Folders of dead launchers are removed first.

    Raises:
        RunFolderError: `TMPDIR` cannot be used.
        OSError: the folder cannot be made.
    """
    parent = Path(tempfile.gettempdir())
    if fault := temporary_folder_fault(parent):
        raise RunFolderError(f"cannot make a run folder in {parent}: it {fault} (set TMPDIR to use another)")
    for left_behind in parent.glob("misotts-*"):
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
