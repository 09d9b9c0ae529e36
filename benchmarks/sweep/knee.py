"""The objective of a service, and the search for the largest load that holds it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.load.report import figure, share

MOST_STEPS = 12
"""Largest number of doublings or halvings: the start may be wrong by a factor of 4,000."""


@dataclass(frozen=True)
class Objective:
    """The promise of a service to its callers; both parts must hold."""

    ttfa_p95_ms: float | None
    """Largest p95 of the time to first audio; a failed call counts as the worst. None: only a failed p95 is too
    large."""
    continuity: float
    """Smallest share of calls without an underrun; a failed call has one."""

    def misses(self, overall: dict[str, Any]) -> list[str]:
        """Return what the overall figures of a load miss, in words; nothing if they hold."""
        if not overall["calls"]:
            return ["no call was due"]
        found = []
        p95, continuity = overall["ttfa_ms"]["p95"], overall["continuity"]
        if p95 is None or (self.ttfa_p95_ms is not None and p95 > self.ttfa_p95_ms):
            found.append(f"TTFA p95 {figure(p95)}" + (" ms" if p95 is not None else ""))
        if continuity is None or continuity < self.continuity:
            found.append(f"continuity {share(continuity)}")
        return found

    def __str__(self) -> str:
        ttfa = "" if self.ttfa_p95_ms is None else f"TTFA p95 <= {self.ttfa_p95_ms:g} ms, "
        return f"{ttfa}continuity >= {100 * self.continuity:g} %"


@dataclass(frozen=True)
class Knee:
    """The two ends of a search."""

    holds: float | None
    """The largest rate tried that holds; None if none did."""
    misses: float | None
    """The smallest rate tried that does not; None if all held."""


def find_knee(holds: Callable[[float], bool], start: float, precision: float, least: float = 0.0) -> Knee:
    """Double from `start` until the rate no longer holds (or halve until it does), then bisect, in ratios, until both
    ends differ by less than `precision` (0.1: 10 %). Assumes that every rate below one that holds does so too.

    No rate below `least` is tried but `start`.
    """
    low: float | None = None
    high: float | None = None
    rate = start
    for _ in range(MOST_STEPS):
        if holds(rate):
            low, rate = rate, rate * 2
        else:
            high, rate = rate, rate / 2
        if (low is not None and high is not None) or (low is None and rate < least):
            break
    while low is not None and high is not None and high / low > 1 + precision:
        middle = math.sqrt(low * high)
        if holds(middle):
            low = middle
        else:
            high = middle
    return Knee(low, high)
