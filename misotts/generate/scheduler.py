"""Decides which utterances take part in the next step. It has no clock, no engine and no thread.

Waiting utterances are served first come, first served, batch work (see `misotts.generate.flow`) after all others. A
running one needs more blocks as it grows; when none is left, the youngest running utterance, of batch work if there is
any, is preempted: it loses its blocks and goes back to the head of its part of the queue, to be computed again from its
prompt and the frames it has. That costs time and changes no frame.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from misotts.config import NO_SLOT
from misotts.engines.interface import Limits
from misotts.generate.blocks import BlockPool, block_keys
from misotts.generate.utterance import Utterance


class QueueFullError(RuntimeError):
    """The queue holds its greatest number of utterances."""


class TooLongError(ValueError):
    """An utterance needs more blocks than the pool has."""


@dataclass(frozen=True)
class Part:
    """One utterance's share of a step: its next `length` positions that are not cached."""

    utterance: Utterance
    length: int
    prefill: bool
    """True for rows of the prompt, and for frames that are computed again; False for the last frame, which is on the
    device."""
    samples: bool
    """True if the step reaches the last known position, so that a frame is sampled."""


class Scheduler:
    """Admits waiting utterances, gives every running one its share of a step, and removes them."""

    def __init__(self, pool: BlockPool, limits: Limits) -> None:
        self.pool, self.limits = pool, limits
        self.waiting: deque[Utterance] = deque()
        self.running: list[Utterance] = []
        """In the order of admission."""
        self.preempted = 0
        """Number of preemptions since start."""
        self._slots = list(range(limits.max_streams))  # a heap: low slots first keep the later stages' batches small
        self._admissions = 0

    @property
    def free_slots(self) -> int:
        return len(self._slots)

    def add(self, utterance: Utterance) -> None:
        """Queue an utterance.

        Raises:
            TooLongError: the pool could never hold it.
            QueueFullError: the queue is full.
        """
        need = self.pool.blocks_for(utterance.most_positions)
        if need > self.pool.capacity:
            raise TooLongError(f"the utterance may need {need} KV blocks, the server has {self.pool.capacity}")
        if not self.places(utterance.batch):
            raise QueueFullError(f"{self.limits.max_streams} utterances may run and {self.limits.max_waiting} wait")
        utterance.prefix_keys = block_keys(utterance.order.frames, self.pool.block_size)
        self._queue(utterance)

    def ahead(self, batch: bool) -> list[Utterance]:
        """Return the waiting utterances that are served before a new one, which is or is not batch work."""
        return list(self.waiting) if batch else [utterance for utterance in self.waiting if not utterance.batch]

    def places(self, batch: bool) -> int:
        """Return how many utterances, of batch work or not, the queue would take now."""
        # Utterances that get a slot at the next step do not count: a burst may fill an idle server's slots and queue.
        # Neither does batch work before a listener.
        return max(self.limits.max_waiting + self.free_slots - len(self.ahead(batch)), 0)

    def schedule(self, paused: Collection[Utterance] = (), most: int | None = None) -> list[Part]:
        """Plan one step: the next position of each generating utterance (but the `paused`), then prefill chunks, first
        admitted first. A chunk that does not end its prompt has whole blocks: TensorRT-LLM's attention over paged
        context requires it. No utterance gets a slot if `most` have one; None: as many as there are."""
        self._admit(self.limits.max_streams if most is None else most)
        generating = []
        for utterance in list(self.running):
            if utterance.generating and utterance not in paused and self._grow(utterance):
                generating.append(utterance)
        # `_grow` may have preempted an utterance that was planned before.
        parts = [Part(u, 1, prefill=False, samples=True) for u in generating if u.blocks]
        block_size, positions = self.pool.block_size, self.limits.step_positions
        budget = max(positions - len(parts), positions // 4, block_size)
        for utterance in self.running:
            missing = utterance.known - utterance.cached
            if utterance.generating or utterance in paused:
                continue
            length = missing if missing <= budget else budget // block_size * block_size
            if length:
                parts.append(Part(utterance, length, prefill=True, samples=length == missing))
                budget -= length
        return parts

    def advance(self, parts: list[Part]) -> None:
        """Record that a planned step has been computed, or will be before any later one."""
        size = self.pool.block_size
        for part in parts:
            utterance, end = part.utterance, part.utterance.cached + part.length
            if part.prefill:
                for number in range(utterance.cached // size, min(end // size, len(utterance.prefix_keys))):
                    self.pool.cache_prefix(utterance.blocks[number], utterance.prefix_keys[number])
            utterance.cached = end
            utterance.sampled += part.samples

    def _queue(self, utterance: Utterance, first: bool = False) -> None:
        """Put an utterance behind or, if `first`, before the others of its class."""
        waiting = self.waiting
        if not waiting or (not first and waiting[-1].batch <= utterance.batch):
            waiting.append(utterance)
            return
        later = (n for n, other in enumerate(waiting) if other.batch > utterance.batch - first)
        waiting.insert(next(later, len(waiting)), utterance)

    def _next(self, most: int) -> Utterance | None:
        """Return the first of the queue that has a slot, after a preemption, or may have one."""
        if self._slots and self.limits.max_streams - len(self._slots) < most:
            return self.waiting[0] if self.waiting else None
        return next((utterance for utterance in self.waiting if utterance.slot != NO_SLOT), None)

    def _admit(self, most: int) -> None:
        """Admit utterances from the head of the queue while a slot is free, and blocks for all their known positions
        and one more for each running utterance, so that an admission does not force a preemption at once."""
        while utterance := self._next(most):
            if len(utterance.frames) < utterance.sampled:  # preempted, and its last codes are still on the device
                return
            # The last position is always computed: its hidden state is needed to sample the next frame.
            shareable = (utterance.known - 1) // self.pool.block_size
            shared = self.pool.share(utterance.prefix_keys[:shareable])
            need = self.pool.blocks_for(utterance.known) - len(shared)
            if need + len(self.running) > self.pool.available:
                self.pool.free(shared)
                return
            self.waiting.remove(utterance)
            if utterance.slot == NO_SLOT:
                utterance.slot = heapq.heappop(self._slots)
                self._admissions += 1
                utterance.admission = self._admissions
            self.pool.shared += len(shared)
            utterance.blocks = shared + self.pool.allocate(need)
            utterance.cached = len(shared) * self.pool.block_size
            self.running.append(utterance)

    def _grow(self, utterance: Utterance) -> bool:
        """Allocate the block of a running utterance's next position; False if the utterance was preempted instead."""
        if not utterance.blocks:  # preempted while this step was planned
            return False
        if utterance.cached < len(utterance.blocks) * self.pool.block_size:
            return True
        while not self.pool.available:
            victim = next((other for other in reversed(self.running) if other.batch), self.running[-1])
            self.running.remove(victim)
            self.preempted += 1
            self._free_blocks(victim)
            self._queue(victim, first=True)
            if victim is utterance:
                return False
        utterance.blocks += self.pool.allocate(1)
        return True

    def _free_blocks(self, utterance: Utterance) -> None:
        self.pool.free(utterance.blocks)
        utterance.blocks, utterance.cached = [], 0

    def remove(self, utterance: Utterance) -> None:
        """Remove an utterance, waiting or running, and free its blocks. It keeps its slot: see `release_slot`."""
        if utterance in self.waiting:
            self.waiting.remove(utterance)
        elif utterance in self.running:
            self.running.remove(utterance)
            if utterance.order.session:
                self._publish(utterance)
            self._free_blocks(utterance)

    def _publish(self, utterance: Utterance) -> None:
        """Record the full blocks with frames of a running utterance, with which the next turn's prompt begins."""
        size, keys = self.pool.block_size, utterance.prefix_keys
        read_back = len(utterance.order.frames) + len(utterance.frames)
        rows = utterance.rows(len(keys) * size, min(utterance.cached, read_back))
        for key in block_keys(rows, size, keys[-1] if keys else b""):
            self.pool.cache_prefix(utterance.blocks[len(keys)], key)
            keys.append(key)

    def release_slot(self, utterance: Utterance) -> None:
        """Free the slot, once the later stages are done with theirs of the same number."""
        if utterance.slot != NO_SLOT:
            heapq.heappush(self._slots, utterance.slot)
            utterance.slot = NO_SLOT

    def check(self) -> None:
        """Check the pool against the utterances.

        Raises:
            RuntimeError: see `BlockPool.check`.
        """
        self.pool.check(utterance.blocks for utterance in self.running)
