"""Section `tests`: the tests that are marked gpu, as a machine with a GPU runs them."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.costs.section import Section, SkippedError


def gpu_tests(section: Section) -> None:
    """Sends one check, with pytest's last line.

    Raises:
        SkippedError: there is no pytest, no GPU, or no such test.
    """
    if section.device != "cuda":
        raise SkippedError("no GPU here")
    if not find_spec("pytest"):
        raise SkippedError("no pytest here")
    left = section.deadline - time.monotonic()
    root = Path(__file__).parents[2]
    # Only these files: pytest imports all files it gets, and others may need missing libraries.
    files = [str(path) for path in sorted((root / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    if not files:
        raise SkippedError("no test is marked gpu")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=left, check=False)
    lines = done.stdout.strip().splitlines()
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    section.check("tests marked gpu", done.returncode == 0, pytest=lines[-1:], failures=failures)
