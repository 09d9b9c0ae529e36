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
    """Of one call."""

    ms: float
    """Median wall time from an idle device to an idle device."""
    low: float
    high: float
    host_ms: float
    """Median time until the call returned. Where it is nearly all of `ms`, the host could not launch any faster."""
    repeats: int


def measure(
    action: Callable[[], object], device: str, repeats: int, seconds: float = float("inf"), calls: int = 1
) -> Time:
    """Time `action`, at least `FEWEST` times, at most `repeats` times and about `seconds`. What is compiled or captured
    must be so after `WARM_UP` calls."""
    for _ in range(WARM_UP):
        action()
    synchronize(device)
    walls: list[float] = []
    hosts: list[float] = []
    began = time.perf_counter()
    while len(walls) < FEWEST or (len(walls) < repeats and time.perf_counter() - began < seconds):
        start = time.perf_counter()
        for _ in range(calls):
            action()
        returned = time.perf_counter()
        synchronize(device)
        walls.append((time.perf_counter() - start) / calls * 1000)
        hosts.append((returned - start) / calls * 1000)
    return Time(
        ms=round(statistics.median(walls), 4),
        low=round(min(walls), 4),
        high=round(max(walls), 4),
        host_ms=round(statistics.median(hosts), 4),
        repeats=len(walls),
    )


def synchronize(device: str) -> None:
    """Wait until the device has done everything that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def memory(device: str) -> dict[str, float]:
    """GiB that torch has taken on the GPU: now, at most, and what is free."""
    if device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    figures = {
        "allocated": torch.cuda.memory_allocated(),
        "most": torch.cuda.max_memory_allocated(),
        "free": free,
        "total": total,
    }
    return {name: round(size / 2**30, 2) for name, size in figures.items()}
