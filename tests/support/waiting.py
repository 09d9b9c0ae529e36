"""Tests of threads wait for what they do, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 5


def wait_until(holds: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.002)
