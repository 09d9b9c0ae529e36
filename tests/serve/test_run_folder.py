"""The run folder, and what launchers that were killed have left in TMPDIR."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from misotts.serve import run_folder as run_folder_module
from misotts.serve.run_folder import run_folder, shared_memory_prefix
from misotts.serve.settings import SETTINGS

OTHER = """
import sys, time
from pathlib import Path
from misotts.serve import run_folder as module
module.SHARED_MEMORY = Path(sys.argv[1])
with module.run_folder() as run:
    (run / "settings").write_text("keys")
    (module.SHARED_MEMORY / (module.shared_memory_prefix(run) + "decode")).touch()
    print(run, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace /dev/shm and TMPDIR; return the folder in place of /dev/shm."""
    regions = tmp_path / "shm"
    regions.mkdir()
    monkeypatch.setattr(run_folder_module, "SHARED_MEMORY", regions)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return regions


@pytest.fixture
def other(shared_memory: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start another launcher; return it and its run folder."""
    command = [sys.executable, "-c", OTHER, str(shared_memory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_the_next_start_removes_the_keys_and_memory_of_a_killed_launcher(
    shared_memory: Path, other: tuple[subprocess.Popen[str], Path]
) -> None:
    process, left = other
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (left / SETTINGS).exists()
    assert list(shared_memory.iterdir())
    with run_folder() as run:
        assert not left.exists()
        assert not list(shared_memory.iterdir())
        assert run.exists()


def test_the_files_of_a_living_launcher_stay(shared_memory: Path, other: tuple[subprocess.Popen[str], Path]) -> None:
    _, living = other
    with run_folder() as run:
        mine = shared_memory / f"{shared_memory_prefix(run)}decode"
        mine.touch()
    assert (living / SETTINGS).exists()
    assert list(shared_memory.iterdir()) == [shared_memory / f"{shared_memory_prefix(living)}decode"]
    assert not run.exists()


@pytest.mark.parametrize("case", ["no lock file", "another user"])
def test_a_folder_that_may_be_in_use_stays(shared_memory: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared_memory.parent / "misotts-abcdefgh"
    folder.mkdir()
    if case == "another user":
        (folder / "lock").touch()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    (folder / SETTINGS).touch()
    with run_folder():
        assert (folder / SETTINGS).exists()
