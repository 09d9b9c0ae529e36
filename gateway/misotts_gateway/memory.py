"""The memory guard: ends requests that are not complete while the process holds too much memory.

One connection can hold 60 requests of 15 MiB whose last byte never comes, and gRPC's Python interface bounds none of
it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from misotts_gateway.errors import TooMany
from misotts_gateway.triton_protocol import Call

_PAGE = os.sysconf("SC_PAGE_SIZE")
_LIBC = ctypes.CDLL(None)


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE


def end_incomplete(calls: Iterable[Call]) -> int:
    """End the older half of the calls on which a request may be under way and none is served; return their number.

    Calls without any complete request go first.
    """
    idle = [call for call in calls if not call.busy and not call.closed]
    chosen = [call for call in idle if not call.requests] or idle
    chosen.sort(key=lambda call: call.began)
    ended = chosen[: (len(chosen) + 1) // 2]
    for call in ended:
        call.end(TooMany("memory", "the gateway is short of memory", 5.0))
    return len(ended)


def give_back() -> None:
    """Return freed memory to the system, so that `resident_bytes` falls."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
