"""A bounded queue and a thread that deliver the loop's chunks to their receivers."""

from __future__ import annotations

import logging
import queue
import threading

from misotts.generate.stream import Chunk, Receiver, deliver
from misotts_client.errors import MisoError

log = logging.getLogger(__name__)


class Outbox:
    """Chunks and refusals for the receivers. The loop never waits for it."""

    def __init__(self, limit: int) -> None:
        """`limit`: more than can wait by the bounds on streams and on their unacknowledged chunks."""
        self._queue: queue.Queue[tuple[Receiver, Chunk | MisoError] | None] = queue.Queue(maxsize=limit)
        self._thread = threading.Thread(target=self._run, name="generate-send", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, receiver: Receiver, news: Chunk | MisoError) -> None:
        self._queue.put_nowait((receiver, news))

    def close(self) -> None:
        """Deliver the waiting chunks and refusals, then stop."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def deliver(self) -> None:
        """Deliver the queue in the caller's thread, for an outbox without a started thread."""
        while not self._queue.empty():
            if item := self._queue.get():
                self._deliver(*item)

    def _run(self) -> None:
        while item := self._queue.get():
            self._deliver(*item)

    def _deliver(self, receiver: Receiver, news: Chunk | MisoError) -> None:
        try:
            deliver(receiver, news)
        except Exception:  # a receiver's error must not stop the others
            log.exception("a receiver failed")
