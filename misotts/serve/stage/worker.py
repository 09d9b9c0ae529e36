"""A stage's worker thread: items are queued one by one and processed in batches."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

log = logging.getLogger("misotts")

Item = TypeVar("Item")

IDLE_S = 0.1


class Worker(Generic[Item]):
    """Processes what has been queued since the last batch, in order, at most one item per key in a batch."""

    def __init__(
        self,
        process: Callable[[list[Item]], None],
        key: Callable[[Item], object],
        limit: int,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread. It calls `process` with every batch, and `idle` when nothing has come for `IDLE_S`.

        `limit` is the greatest number of items in the queue.
        """
        self._process, self._key, self._idle, self._limit = process, key, idle, limit
        self._queue: deque[Item] = deque()
        self._in_batch = 0
        self._arrival = threading.Condition()
        """Guards the queue and `_in_batch`; notified when an item comes."""
        self.busy_s = 0.0
        self.last_progress = time.monotonic()
        """Time at which the worker last made progress."""
        threading.Thread(target=self._run, name="worker", daemon=True).start()

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

    def _take_batch(self) -> list[Item]:
        with self._arrival:
            self._in_batch = 0
            if not self._queue:
                self._arrival.wait(IDLE_S)
            batch, self._queue = next_batch(self._queue, self._key)
            self._in_batch = len(batch)
            return batch


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
