"""Refuses requests that would wait too long for a slot, from figures that `generate` publishes ten times a second.

`generate` decides; the gateway only spares it, and the caller, a request that it would refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from misotts_client.errors import try_again

STALE_S = 2.0
"""Figures that are older say nothing."""
ON_ITS_WAY_S = 0.25
"""Time after which a request that has not come to `generate` no longer counts: an earlier stage has refused it."""


@dataclass(frozen=True)
class Queue:
    """What the next listeners find, or the next batch work.

    Attributes:
        places: utterances that find a slot or a place in the queue.
        waits_s: the expected waits of the next ones, up to the first that is too long; those behind wait as long.
    """

    places: int = 0
    waits_s: tuple[float, ...] = (0.0,)

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Queue:
        """Make it of what `generate` publishes.

        Raises:
            ValueError, KeyError, TypeError: the figures make no sense.
        """
        waits_s = tuple(float(wait_s) for wait_s in figures["waits_s"])
        if not waits_s:
            raise ValueError("no waits")
        return cls(int(figures["places"]), waits_s)


@dataclass(frozen=True)
class Figures:
    """What `generate` publishes.

    Attributes:
        slots: slots in all.
        free_slots: slots without an utterance; one is free again when the last chunk has been acknowledged.
        waiting: utterances in the queue.
        submitted: utterances that have come to it since its start, refused or not.
        listeners: what the next listeners find.
        batch: what the next batch work finds: everything that waits is served before it.
        slot_s: time until a slot is free again once all are taken.
        max_wait_s: the longest wait.
        again_s: the longest wait after a refusal.
        lead_s: lead of a request without LEAD_MS; 0: it is batch work.
    """

    slots: int = 0
    free_slots: int = 0
    waiting: int = 0
    submitted: int = 0
    listeners: Queue = Queue()
    batch: Queue = Queue()
    slot_s: float = 0.0
    max_wait_s: float = 0.0
    again_s: float = 0.0
    lead_s: float = 0.0


class Admission:
    """The figures, and the requests let in that they do not count."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._figures = Figures()
        self._heard_at = -STALE_S
        self._let_in: dict[int, tuple[float, bool]] = {}
        """Times by number, the oldest first, and whether each is batch work."""
        self._number = 0
        self._refuses = {False: False, True: False}
        """For listeners and batch work (`True`): True from a refusal for a wait that is too long, until the wait has
        become shorter than `again_s`."""

    def hear(self, figures: Mapping[str, Any]) -> None:
        """Take new figures.

        Raises:
            ValueError, KeyError, TypeError: they make no sense.
        """
        read: dict[str, Any] = {name: int(figures[name]) for name in ("slots", "free_slots", "waiting", "submitted")}
        read |= {name: Queue.of(figures[name]) for name in ("listeners", "batch")}
        read |= {name: float(figures[name]) for name in ("slot_s", "max_wait_s", "again_s", "lead_s")}
        new = Figures(**read)
        come = new.submitted - self._figures.submitted
        self._figures = new
        self._heard_at = self._clock()
        # They come about in the order in which they were let in; the figures count those that have come.
        for number, (at, _) in list(self._let_in.items()):
            if come <= 0 and at >= self._heard_at - ON_ITS_WAY_S:
                break
            del self._let_in[number]
            come -= 1

    @property
    def figures(self) -> Figures:
        """The last figures that came; zeros if none ever did."""
        return self._figures

    def leave(self, number: int) -> None:
        """Take note that the request that `enter` has let in as `number` has ended: an earlier stage may have refused
        it."""
        self._let_in.pop(number, None)

    def enter(self, lead_ms: int | None) -> int:
        """Let a request with this LEAD_MS in; return its number, for `leave`.

        Raises:
            Unavailable: it would wait too long, or finds no place in the queue.
        """
        now = self._clock()
        if now - self._heard_at >= STALE_S:
            self._let_in.clear()
            return 0
        figures = self._figures
        batch = not (figures.lead_s if lead_ms is None else lead_ms)
        queue = figures.batch if batch else figures.listeners
        before = sum(batch or not other for _, other in self._let_in.values())  # batch work comes after listeners
        if before >= queue.places:
            raise try_again("all places are taken", figures.slot_s)
        wait_s = queue.waits_s[min(before, len(queue.waits_s) - 1)]
        most_s, when = (figures.again_s, " after a refusal") if self._refuses[batch] else (figures.max_wait_s, "")
        self._refuses[batch] = wait_s > most_s
        if self._refuses[batch]:
            allowed = f"the wait for a slot would be {wait_s:.1f} s, at most {most_s:g} s are allowed{when}"
            raise try_again(allowed, wait_s - figures.again_s)
        self._number += 1
        self._let_in[self._number] = now, batch
        return self._number
