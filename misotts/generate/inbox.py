"""A receiver that queues chunks for another thread."""

from __future__ import annotations

import queue

from misotts.generate.stream import Chunk
from misotts_client.errors import MisoError, error_of


class Inbox:
    """A queue of the chunks of one or more utterances; a `Receiver`. The reader acknowledges them."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[Chunk | MisoError] = queue.SimpleQueue()
        self.chunk = self.refuse = self._news.put

    def empty(self) -> bool:
        return self._news.empty()

    def next(self, timeout: float | None = None) -> Chunk:
        """Wait for the next chunk.

        Raises:
            MisoError: an utterance was refused, or ended with this error.
            queue.Empty: nothing came in `timeout` seconds.
        """
        news = self._news.get(timeout=timeout)
        if isinstance(news, MisoError):
            raise news
        if error := error_of(news.finish):
            raise error
        return news
