"""Refuses requests that would wait too long for a slot, from figures that `generate` publishes ten times a second.

`generate` decides; the gateway only spares it, and the caller, a request that it would refuse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from misotts_client.errors import Unavailable

STALE_S = 2.0
"""Figures that are older say nothing."""
ON_ITS_WAY_S = 0.05
"""Time in which a request reaches `generate`: those let in shortly before the figures were made are not in them."""
RETRY_S = (0.1, 60.0)
FIGURES = ("free", "places", "wait_s", "each_s", "max_wait_s")
"""Utterances that get a slot at once; those that the queue still takes; the wait of the next one, and by how much each
one lengthens it; the longest wait."""


class Admission:
    """The figures, and the requests let in since they were made."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._figures: dict[str, float] = {}
        self._heard_at = -STALE_S
        self._let_in: deque[float] = deque()

    def hear(self, figures: Mapping[str, Any]) -> None:
        """Take new figures.

        Raises:
            ValueError, KeyError, TypeError: they make no sense.
        """
        self._figures = {name: float(figures[name]) for name in FIGURES}
        self._heard_at = self._clock()
        while self._let_in and self._let_in[0] < self._heard_at - ON_ITS_WAY_S:
            self._let_in.popleft()

    def enter(self) -> None:
        """Let a request in.

        Raises:
            Unavailable: it would wait too long, or finds no place in the queue.
        """
        now = self._clock()
        if now - self._heard_at >= STALE_S:
            self._let_in.clear()
            return
        figures, before = self._figures, len(self._let_in)
        wait_s = figures["wait_s"] + max(before - figures["free"], 0) * figures["each_s"]
        if before >= figures["places"]:
            raise _refusal("all places are taken", figures["each_s"])
        if wait_s > figures["max_wait_s"]:
            allowed = f"the wait for a slot would be {wait_s:.1f} s, at most {figures['max_wait_s']:g} s are allowed"
            raise _refusal(allowed, wait_s - figures["max_wait_s"])
        self._let_in.append(now)


def _refusal(why: str, retry_s: float) -> Unavailable:
    retry_s = min(max(retry_s, RETRY_S[0]), RETRY_S[1])
    return Unavailable(f"{why}; try again in {retry_s:.1f} s", retry_s)
