"""A stage's worker thread: items are queued one by one and processed in batches."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from cachetools import LRUCache

log = logging.getLogger("misotts")

Item = TypeVar("Item")

IDLE_S = 0.1
MAX_CALLERS = 1024
"""Callers of which a `FairWorker` knows when they were served."""


class Worker(Generic[Item]):
    """Processes what has been queued since the last batch, in order, at most one item per key in a batch."""

    def __init__(
        self,
        process: Callable[[list[Item]], None],
        key: Callable[[Item], object],
        limit: int,
        idle: Callable[[], None] = lambda: None,
        name: str = "worker",
    ) -> None:
        """Start the thread. It calls `process` with every batch, and `idle` when nothing has come for `IDLE_S`.

        `limit` is the greatest number of items in the queue.
        """
        self._process, self._key, self._idle, self._limit = process, key, idle, limit
        self._queue: deque[Item] = deque()
        self._in_batch = 0
        self._arrival = threading.Condition()  # its lock may be taken twice by one thread
        """Guards the queue and `_in_batch`; notified when an item comes."""
        self.busy_s = 0.0
        self.last_progress = time.monotonic()
        """Time at which the worker last made progress."""
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def unfinished(self) -> int:
        """Number of items in the queue and in the current batch."""
        with self._arrival:
            return len(self._queue) + self._in_batch

    def put(self, item: Item) -> None:
        """Queue an item.

        Raises:
            queue.Full: the queue holds `limit` items.
        """
        with self._arrival:
            if len(self._queue) >= self._limit:
                raise queue.Full
            self._queue.append(item)
            self._arrival.notify()

    def report_progress(self) -> None:
        """`process` calls this between the parts of long work, so that the launcher does not take it for hung."""
        self.last_progress = time.monotonic()

    def _run(self) -> None:
        while True:
            self.report_progress()
            batch = self._take_batch()
            began = time.perf_counter()
            try:
                if batch:
                    self._process(batch)
                else:
                    self._idle()
            except Exception:  # the thread must go on: without it the stage would hang
                log.exception("the worker failed")
            if batch:
                self.busy_s += time.perf_counter() - began

    def _next_batch(self, items: deque[Item]) -> tuple[list[Item], deque[Item]]:
        """Return the next batch, and the items that go on waiting."""
        return next_batch(items, self._key)

    def _take_batch(self) -> list[Item]:
        with self._arrival:
            self._in_batch = 0
            if not self._queue:
                self._arrival.wait(IDLE_S)
            batch, self._queue = self._next_batch(self._queue)
            self._in_batch = len(batch)
            return batch


class FairWorker(Worker[Item]):
    """A worker with one item a batch, for which callers take turns: next comes the one that was served longest ago.

    When the queue is full, a caller with fewer items displaces the newest item of the caller with the most.
    """

    def __init__(
        self,
        process: Callable[[list[Item]], None],
        caller: Callable[[Item], int],
        limit: int,
        displaced: Callable[[Item], None],
    ) -> None:
        """`caller(item)` returns the number of the item's caller; `displaced(item)` is called with an item that has
        lost its place."""
        self._caller, self._displaced = caller, displaced
        self._served: LRUCache[int, int] = LRUCache(MAX_CALLERS)
        """The number of the batch in which a caller was last served."""
        self._batches = 0
        super().__init__(process, lambda _: None, limit)

    def put(self, item: Item) -> None:
        """Queue an item.

        Raises:
            queue.Full: the queue is full, and no caller has more items in it.
        """
        displaced: list[Item] = []
        with self._arrival:
            if len(self._queue) >= self._limit:
                counts = Counter(map(self._caller, self._queue))
                most, count = counts.most_common(1)[0]
                if counts[self._caller(item)] + 1 >= count:
                    raise queue.Full
                displaced.append(next(other for other in reversed(self._queue) if self._caller(other) == most))
                self._queue.remove(displaced[0])
            super().put(item)
        for other in displaced:
            self._displaced(other)

    def _next_batch(self, items: deque[Item]) -> tuple[list[Item], deque[Item]]:
        if not items:
            return [], items
        chosen = min(items, key=lambda item: self._served.get(self._caller(item), 0))
        self._batches += 1
        self._served[self._caller(chosen)] = self._batches
        return [chosen], deque(item for item in items if item is not chosen)


def next_batch(items: Iterable[Item], key: Callable[[Item], object]) -> tuple[list[Item], deque[Item]]:
    """Return the first item of every key, and the other items; both in order."""
    batch: dict[object, Item] = {}
    rest: deque[Item] = deque()
    for item in items:
        if key(item) in batch:
            rest.append(item)
        else:
            batch[key(item)] = item
    return list(batch.values()), rest
