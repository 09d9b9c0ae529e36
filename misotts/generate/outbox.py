"""From the loop to whoever waits for an utterance: bounded, and handed on by a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
from typing import Protocol

from misotts.generate.delivery import Chunk
from misotts_client.errors import MisoError

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """Where an utterance's chunks go. Called from one thread, in order."""

    def chunk(self, chunk: Chunk) -> None: ...

    def refuse(self, error: MisoError) -> None:
        """The utterance ended before its first chunk; nothing else will come."""
        ...


class Outbox:
    """What the loop has for the receivers. The loop never waits for it."""

    def __init__(self, limit: int) -> None:
        """`limit`: more than can be under way by the bounds on streams and on their unacknowledged chunks."""
        self._queue: queue.Queue[tuple[Receiver, Chunk | MisoError] | None] = queue.Queue(maxsize=limit)
        self._thread = threading.Thread(target=self._run, name="generate-send", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, receiver: Receiver, news: Chunk | MisoError) -> None:
        self._queue.put_nowait((receiver, news))

    def close(self) -> None:
        """Hand on what waits, then stop."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def hand_on(self) -> None:
        """Hand on what waits in the caller's thread, where the outbox's own is not started."""
        while not self._queue.empty():
            if item := self._queue.get():
                self._hand_on(*item)

    def _run(self) -> None:
        while item := self._queue.get():
            self._hand_on(*item)

    def _hand_on(self, receiver: Receiver, news: Chunk | MisoError) -> None:
        try:
            if isinstance(news, Chunk):
                receiver.chunk(news)
            else:
                receiver.refuse(news)
        except Exception:  # a caller's trouble must not stop the others
            log.exception("a receiver failed")
