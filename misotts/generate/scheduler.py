"""Who takes part in the next step. A pure object: no clock, no engine, no thread."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from misotts.generate.blocks import BlockPool
from misotts.generate.utterance import NO_SEAT, Utterance
from misotts_client.errors import Unavailable


@dataclass(frozen=True)
class Limits:
    """How much the stage takes on."""

    max_streams: int = 16
    """Seats: utterances that generate at once."""
    max_waiting: int = 64
    """Utterances that may wait for a seat; the next one is refused."""
    step_positions: int = 512
    """Positions of one step; what decodes leave of it goes to prefill."""


@dataclass(frozen=True)
class Part:
    """One utterance's share of a step: `length` positions from its first one that is not cached."""

    utterance: Utterance
    length: int

    @property
    def draws(self) -> bool:
        """Whether the step reaches the end of what is known, so that a frame can be drawn."""
        return self.utterance.cached + self.length >= len(self.utterance.prompt)


class Scheduler:
    """Admits waiting utterances, gives every running one its share of a step, takes leavers out."""

    def __init__(self, pool: BlockPool, limits: Limits) -> None:
        self.pool, self.limits = pool, limits
        self.waiting: deque[Utterance] = deque()
        self.running: list[Utterance] = []
        self._seats = list(range(limits.max_streams))  # a heap: low seats first keep the later stages' batches small

    @property
    def free_seats(self) -> int:
        return len(self._seats)

    def add(self, utterance: Utterance) -> None:
        """Put an utterance in the waiting line.

        Raises:
            Unavailable: the line is full, or the pool could never hold the utterance.
        """
        need = self.pool.blocks_for(utterance.last_position)
        if need > self.pool.capacity:
            raise Unavailable(
                f"the utterance may need {need} KV blocks and the server has {self.pool.capacity}; "
                "ask for a smaller MAX_AUDIO_MS or give the server more KV memory"
            )
        if len(self.waiting) >= self.limits.max_waiting:
            raise Unavailable(
                f"{self.limits.max_streams} utterances may run and {self.limits.max_waiting} wait, all places are "
                "taken; try again in 1 s",
                retry_after_s=1.0,
            )
        self.waiting.append(utterance)

    def schedule(self, paused: set[Utterance] | None = None) -> list[Part]:
        """Plan one step: a position for each utterance that draws frames (but the `paused`), then prefill in chunks."""
        self._admit()
        active = [u for u in self.running if not paused or u not in paused]
        parts = [Part(u, 1) for u in active if u.prefilled]
        budget = max(self.limits.step_positions - len(parts), 1)
        for utterance in active:
            if not utterance.prefilled and budget:
                length = min(len(utterance.prompt) - utterance.cached, budget)
                parts.append(Part(utterance, length))
                budget -= length
        return parts

    def _admit(self) -> None:
        """Seat waiting utterances, first come first served. Blocks for the longest it can get are taken at once, so a
        running utterance never lacks one."""
        while self.waiting and self._seats:
            need = self.pool.blocks_for(self.waiting[0].last_position)
            if need > self.pool.free:
                return
            utterance = self.waiting.popleft()
            utterance.seat, utterance.blocks = heapq.heappop(self._seats), self.pool.take(need)
            self.running.append(utterance)

    def remove(self, utterance: Utterance) -> None:
        """Take an utterance out, wherever it is, and free its blocks. Its seat stays held: see `release_seat`."""
        if utterance in self.waiting:
            self.waiting.remove(utterance)
        elif utterance in self.running:
            self.running.remove(utterance)
            self.pool.give_back(utterance.blocks)
            utterance.blocks = []

    def release_seat(self, utterance: Utterance) -> None:
        """Free the seat, once the later stages are known to be done with its slot."""
        if utterance.seat != NO_SEAT:
            heapq.heappush(self._seats, utterance.seat)
            utterance.seat = NO_SEAT
