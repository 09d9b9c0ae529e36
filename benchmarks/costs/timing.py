"""Milliseconds of an action on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

WARM_UP = 3
"""Calls that do not count: libraries load, kernels are chosen, graphs are captured (moshi's at the second call)."""
FEWEST = 3


@dataclass(frozen=True)
class Time:
    """The time of one call."""

    ms: float
    """Median wall time from an idle device to an idle device."""
    low: float
    high: float
    host_ms: float
    """Median time until the call returned. Where it is nearly all of `ms`, the host could not launch any faster."""
    repeats: int


def measure(
    action: Callable[[], object],
    device: str,
    repeats: int,
    seconds: float = float("inf"),
    calls: int = 1,
    pause_s: float = 0.0,
) -> Time:
    """Time `action` at least `FEWEST` times, at most `repeats` times and for about `seconds`.

    `calls`: runs between two looks at the clock. `pause_s`: sleep before each of these, which lets caches forget.
    Everything must be compiled and captured after `WARM_UP` calls.
    """
    for _ in range(WARM_UP):
        action()
    synchronize(device)
    walls: list[float] = []
    hosts: list[float] = []
    began = time.perf_counter()
    while len(walls) < FEWEST or (len(walls) < repeats and time.perf_counter() - began < seconds):
        time.sleep(pause_s)
        start = time.perf_counter()
        for _ in range(calls):
            action()
        returned = time.perf_counter()
        synchronize(device)
        walls.append((time.perf_counter() - start) / calls * 1000)
        hosts.append((returned - start) / calls * 1000)
    times = statistics.median(walls), min(walls), max(walls), statistics.median(hosts)
    ms, low, high, host_ms = (round(each, 4) for each in times)
    return Time(ms, low, high, host_ms, repeats=len(walls))


def synchronize(device: str) -> None:
    """Wait until the device has finished all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def memory(device: str) -> dict[str, float]:
    """Return the GPU's memory in GiB: allocated by torch, the most that was, free, and in all."""
    if device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    allocated, most = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    figures = {"allocated": allocated, "most": most, "free": free, "total": total}
    return {name: round(size / 2**30, 2) for name, size in figures.items()}
