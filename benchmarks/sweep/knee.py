"""The search for the largest load that holds: a pure function of a question."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MOST_STEPS = 12
"""Doublings or halvings from the start, which is off by a factor of 4,000 at most."""


@dataclass(frozen=True)
class Knee:
    """Where a load stops to hold."""

    holds: float | None
    """The largest rate tried that holds; None if none did."""
    misses: float | None
    """The smallest rate tried that does not; None if all held."""


def find_knee(holds: Callable[[float], bool], start: float, precision: float, least: float = 0.0) -> Knee:
    """Double from `start` until it no longer holds (or halve until it does), then bisect, in ratios, until the two ends
    differ by less than `precision` (0.1: 10 %). Assumes that what holds at a rate holds at every lower one.

    Below `least` no rate is tried but `start`.
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
