"""Who takes part in the next step. A pure object: no clock, no engine, no thread.

Waiting utterances are served first come, first served. A running one takes blocks as it grows; when none is left, the
youngest running utterance gives up its own and goes back to the head of the line, to be computed again from its prompt
and the frames it has: slower, never different.
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
    """As many utterances wait as may."""


class TooLongError(ValueError):
    """An utterance that the pool could never hold."""


@dataclass(frozen=True)
class Part:
    """One utterance's share of a step: `length` positions from its first one that is not cached."""

    utterance: Utterance
    length: int
    decodes: bool
    """Whether the position is the frame drawn last, whose embedding is on the device."""
    draws: bool
    """Whether the step reaches the end of what is known, so that a frame is drawn."""


class Scheduler:
    """Admits waiting utterances, gives every running one its share of a step, takes leavers out."""

    def __init__(self, pool: BlockPool, limits: Limits) -> None:
        self.pool, self.limits = pool, limits
        self.waiting: deque[Utterance] = deque()
        self.running: list[Utterance] = []
        """In the order of admission."""
        self.preempted = 0
        """Times that an utterance gave up its blocks, since start."""
        self._slots = list(range(limits.max_streams))  # a heap: low slots first keep the later stages' batches small

    @property
    def free_slots(self) -> int:
        return len(self._slots)

    def add(self, utterance: Utterance) -> None:
        """Put an utterance in the waiting line.

        Raises:
            TooLongError: the pool could never hold it.
            QueueFullError: the line is full.
        """
        need = self.pool.blocks_for(utterance.last_position)
        if need > self.pool.capacity:
            raise TooLongError(f"the utterance may need {need} KV blocks, the server has {self.pool.capacity}")
        # Those who will sit down at the next step do not wait: a burst on an idle server fills its slots and the line.
        if len(self.waiting) >= self.limits.max_waiting + self.free_slots:
            raise QueueFullError(f"{self.limits.max_streams} utterances may run and {self.limits.max_waiting} wait")
        utterance.keys = block_keys(utterance.order.frames, self.pool.block_size)
        self.waiting.append(utterance)

    def schedule(self, paused: Collection[Utterance] = ()) -> list[Part]:
        """Plan one step: the next position of each utterance that draws frames (but the `paused`), then pieces of
        prompts, the longest-waiting first. A piece that does not end its prompt is of whole blocks: TensorRT-LLM's
        attention over paged context asks for it."""
        self._admit()
        decodes = []
        for utterance in list(self.running):
            if utterance.decodes and utterance not in paused and self._grow(utterance):
                decodes.append(utterance)
        # `_grow` may have sent one away that was planned before it.
        parts = [Part(u, 1, decodes=True, draws=True) for u in decodes if u.blocks]
        block_size, positions = self.pool.block_size, self.limits.step_positions
        budget = max(positions - len(parts), positions // 4, block_size)
        for utterance in self.running:
            missing = utterance.known - utterance.cached
            if utterance.decodes or utterance in paused:
                continue
            length = missing if missing <= budget else budget // block_size * block_size
            if length:
                parts.append(Part(utterance, length, decodes=False, draws=length == missing))
                budget -= length
        return parts

    def advance(self, parts: list[Part]) -> None:
        """Record that a planned step has been carried out, or is certain to be before any later one."""
        for part in parts:
            utterance = part.utterance
            if not part.decodes:
                self._publish(utterance, utterance.cached + part.length)
            utterance.cached += part.length
            utterance.drawn += part.draws

    def _publish(self, utterance: Utterance, cached: int) -> None:
        size = self.pool.block_size
        for number in range(utterance.cached // size, min(cached // size, len(utterance.keys))):
            self.pool.publish(utterance.blocks[number], utterance.keys[number])

    def _admit(self) -> None:
        """Seat utterances from the head of the line while there are a slot and blocks for all that is known of them,
        and one more for each that runs, so that admission does not at once force a preemption."""
        while self.waiting:
            utterance = self.waiting[0]
            if utterance.slot == NO_SLOT and not self._slots:
                return
            if len(utterance.frames) < utterance.drawn:  # preempted, and its last codes are still on the device
                return
            # The last position is always computed: its hidden state draws the next frame.
            shareable = (utterance.known - 1) // self.pool.block_size
            shared = self.pool.share(utterance.keys[:shareable])
            need = self.pool.blocks_for(utterance.known) - len(shared)
            if need + len(self.running) > self.pool.available:
                self.pool.give_back(shared)
                return
            self.waiting.popleft()
            if utterance.slot == NO_SLOT:
                utterance.slot = heapq.heappop(self._slots)
            self.pool.shared += len(shared)
            utterance.blocks = shared + self.pool.take(need)
            utterance.cached = len(shared) * self.pool.block_size
            self.running.append(utterance)

    def _grow(self, utterance: Utterance) -> bool:
        """Give a running utterance the block of its next position; False if it had to give up its own instead."""
        if not utterance.blocks:  # sent away while this step was planned
            return False
        if utterance.cached < len(utterance.blocks) * self.pool.block_size:
            return True
        while not self.pool.available:
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is utterance:
                return False
        utterance.blocks += self.pool.take(1)
        return True

    def _preempt(self, utterance: Utterance) -> None:
        self.preempted += 1
        self.running.remove(utterance)
        self._free_blocks(utterance)
        self.waiting.appendleft(utterance)

    def _free_blocks(self, utterance: Utterance) -> None:
        self.pool.give_back(utterance.blocks)
        utterance.blocks, utterance.cached = [], 0

    def remove(self, utterance: Utterance) -> None:
        """Take an utterance out, wherever it is, and free its blocks. Its slot stays held: see `release_slot`."""
        if utterance in self.waiting:
            self.waiting.remove(utterance)
        elif utterance in self.running:
            self.running.remove(utterance)
            self._free_blocks(utterance)

    def release_slot(self, utterance: Utterance) -> None:
        """Free the slot, once the later stages are known to be done with its slot."""
        if utterance.slot != NO_SLOT:
            heapq.heappush(self._slots, utterance.slot)
            utterance.slot = NO_SLOT

    def check(self) -> None:
        """Hold the pool against the utterances.

        Raises:
            RuntimeError: see `BlockPool.check`.
        """
        self.pool.check(utterance.blocks for utterance in self.running)
