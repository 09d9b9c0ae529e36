"""The limits of the public listener, and what counts callers against them.

A limit is a constant with its reason; operators set three of them (`GatewayOptions`). docs/gateway.md lists them all.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from misotts_gateway.callers import Caller
from misotts_gateway.errors import TooMany

MAX_METADATA = 16 * 2**10
"""Bytes of a call's metadata: a key, ids and a chain of proxies take less than 2 KiB."""
STREAMS_PER_CONNECTION = 128
"""Calls at once of one connection. Without a limit, a flood of calls fills gRPC's queue for all callers."""
UTTERANCES_PER_CALL = 32
"""Requests of one call that are served at once; the next one is read when one has ended."""
CONNECTIONS_PER_ADDRESS = 256
"""More than any pool of channels needs; at most a quarter of the file descriptors."""
MAX_CONNECTIONS = 16_384
"""Connections in all: so high that it is reached only where many addresses attack at once."""
HANDSHAKE_MS = 5_000
"""A connection that has not said what it is by then is closed."""
IDLE_MS = 300_000
"""A connection without a call is closed after this time: longer than a conversation's pauses."""
FIRST_REQUEST_S = 30.0
"""A call whose first request is not complete by then is ended: 16 MiB at 4.5 Mbit/s."""
IDLE_CALL_S = 600.0
"""A call on which nothing is served and no request comes for this long is ended."""
PING_INTERVAL_MS = 2_000
"""Pings closer than this are abuse. Our clients ping every 5 s."""
KEEPALIVE_MS = 5_000
KEEPALIVE_TIMEOUT_MS = 10_000
"""A caller that has vanished is noticed within these two times together."""
SEND_BUFFER = 128 * 2**10
"""Bytes that the kernel keeps for a caller that does not read: 0.7 s of audio."""
STALLED_S = 60.0
"""A caller that takes nothing for this long while audio waits is ended."""
HALF_CLOSE_S = 0.2
"""Time in which a caller's end of its side is awaited before a refusal: it follows the request at once."""

MINUTE_S = 60.0


class CallerLimits:
    """Counts the utterances of addresses and keys, and the requests of keys within a minute."""

    def __init__(self, per_address: int) -> None:
        self._per_address = per_address
        self._by_address: Counter[str] = Counter()
        self._by_key: Counter[str] = Counter()
        self._requests: dict[str, deque[float]] = {}

    @property
    def taken(self) -> int:
        """Number of utterances."""
        return self._by_address.total()

    @contextmanager
    def hold(self, caller: Caller) -> Iterator[None]:
        """Count an utterance of `caller` for as long as the block runs.

        Raises:
            TooMany: a limit is reached; nothing is counted then.
        """
        self.check(caller)
        name = caller.key.name if caller.key else ""
        self._by_address[caller.address] += 1
        self._by_key[name] += 1
        if caller.key and caller.key.requests_per_minute:
            self._requests.setdefault(name, deque()).append(time.monotonic())
        try:
            yield
        finally:
            for counter, index in ((self._by_address, caller.address), (self._by_key, name)):
                counter[index] -= 1
                if not counter[index]:
                    del counter[index]

    def check(self, caller: Caller) -> None:
        """Raises TooMany if `hold` would."""
        if self._by_address[caller.address] >= self._per_address:
            message = f"{caller.address} has {self._per_address} streams, the most of an address"
            raise TooMany("streams_per_address", message, 1.0)
        key = caller.key
        if key is None:
            return
        if key.streams and self._by_key[key.name] >= key.streams:
            raise TooMany("streams_per_key", f"the key has {key.streams} streams, its most", 1.0)
        if key.requests_per_minute:
            requests = self._requests.get(key.name, deque[float]())
            now = time.monotonic()
            while requests and requests[0] <= now - MINUTE_S:
                requests.popleft()
            if len(requests) >= key.requests_per_minute:
                wait_s = max(1.0, round(requests[0] + MINUTE_S - now))
                message = f"the key has made {key.requests_per_minute} requests within a minute, its most"
                raise TooMany("requests_per_minute", message, wait_s)
