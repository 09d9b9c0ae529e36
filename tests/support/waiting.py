"""Tests of threads and processes wait for what these do, and fail after a limit."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], object], limit_s: float = 5) -> None:
    """Return as soon as `holds()` is true."""
    limit = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < limit, f"it did not hold within {limit_s} s"
        time.sleep(0.002 if limit_s <= 5 else 0.05)
