"""A stage's own thread: requests come in one by one and are worked on in batches."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

IDLE_S = 0.1


class Worker(Generic[Item]):
    """Takes what has gathered since the last batch, in order, at most one item per key in a batch."""

    def __init__(
        self,
        process: Callable[[list[Item]], None],
        key: Callable[[Item], object],
        limit: int,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        """`process` gets the batches and must not raise; `limit` bounds the queue; `idle` runs when nothing comes."""
        self._process, self._key, self._idle = process, key, idle
        self._queue: queue.Queue[Item] = queue.Queue(maxsize=limit)
        self._later: deque[Item] = deque()
        self.busy_s = 0.0
        self.last_pass = time.monotonic()
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    def put(self, item: Item) -> None:
        """Queue an item.

        Raises:
            queue.Full: `limit` items wait.
        """
        self._queue.put_nowait(item)

    def _run(self) -> None:
        while True:
            self.last_pass = time.monotonic()
            batch = self._take()
            if not batch:
                self._idle()
                continue
            began = time.perf_counter()
            self._process(batch)
            self.busy_s += time.perf_counter() - began

    def _take(self) -> list[Item]:
        """The next batch; what comes second for its key waits for the one after."""
        if not self._later:
            try:
                self._later.append(self._queue.get(timeout=IDLE_S))
            except queue.Empty:
                return []
        while True:
            try:
                self._later.append(self._queue.get_nowait())
            except queue.Empty:
                break
        batch: dict[object, Item] = {}
        rest: deque[Item] = deque()
        for item in self._later:
            if self._key(item) in batch:
                rest.append(item)
            else:
                batch[self._key(item)] = item
        self._later = rest
        return list(batch.values())
