"""A stage's own thread: requests come in one by one and are worked on in batches."""

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
    """Takes what has gathered since the last batch, in order, at most one item per key in a batch."""

    def __init__(
        self,
        process: Callable[[list[Item]], None],
        key: Callable[[Item], object],
        limit: int,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        """`process` gets the batches; `limit` bounds the items that wait; `idle` runs when nothing comes."""
        self._process, self._key, self._idle, self._limit = process, key, idle, limit
        self._items: deque[Item] = deque()
        self._taken = 0
        self._arrival = threading.Condition()
        """Guards the items and how many of them a batch has taken; notified when one comes."""
        self.busy_s = 0.0
        self.last_sign = time.monotonic()
        """When the worker last gave a sign of life."""
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    @property
    def unfinished(self) -> int:
        """Items that wait or are being worked on."""
        with self._arrival:
            return len(self._items) + self._taken

    def put(self, item: Item) -> None:
        """Queue an item.

        Raises:
            queue.Full: `limit` items wait.
        """
        with self._arrival:
            if len(self._items) >= self._limit:
                raise queue.Full
            self._items.append(item)
            self._arrival.notify()

    def sign_of_life(self) -> None:
        """To be called between the pieces of a long piece of work."""
        self.last_sign = time.monotonic()

    def _run(self) -> None:
        while True:
            self.sign_of_life()
            batch = self._take()
            began = time.perf_counter()
            try:
                if batch:
                    self._process(batch)
                else:
                    self._idle()
            except Exception:  # without its worker the stage would be dead
                log.exception("the worker failed")
            if batch:
                self.busy_s += time.perf_counter() - began

    def _take(self) -> list[Item]:
        """The next batch; what comes second for its key waits for the one after."""
        with self._arrival:
            self._taken = 0
            if not self._items:
                self._arrival.wait(IDLE_S)
            batch, self._items = first_of_each(self._items, self._key)
            self._taken = len(batch)
            return batch


def first_of_each(items: Iterable[Item], key: Callable[[Item], object]) -> tuple[list[Item], deque[Item]]:
    """The first item of every key, and what is left; both in order."""
    first: dict[object, Item] = {}
    rest: deque[Item] = deque()
    for item in items:
        if (its := key(item)) in first:
            rest.append(item)
        else:
            first[its] = item
    return list(first.values()), rest
