"""The port of the operator: /ready, /live and /metrics, with limits of its own."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

MAX_CONNECTIONS = 64
CONNECTIONS_PER_ADDRESS = 16
TIMEOUT_S = 5.0
"""Time of a connection from its beginning to its end."""
MAX_REQUEST = 8 * 2**10

Answer = tuple[int, str, bytes]
"""Status, type and body."""


class Probes:
    """Answers GET and HEAD of /ready (200 or 503), /live (200) and /metrics."""

    def __init__(
        self, state: Callable[[], tuple[bool, dict[str, Any]]], metrics: Callable[[], Awaitable[bytes]]
    ) -> None:
        """`state()` returns True if the server takes requests, and details."""
        self._state, self._metrics = state, metrics

    async def answer(self, path: str) -> Answer:
        """Return the answer to a GET of `path`, which has no query and no slash at its end."""
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", await self._metrics()
        if path not in ("/ready", "/live"):
            return 404, "text/plain", b"the paths are /ready, /live and /metrics\n"
        ready, details = self._state()
        body = json.dumps({"ready": ready, **details}).encode() + b"\n"
        return 200 if ready or path == "/live" else 503, "application/json", body


class SmallServer:
    """An HTTP server of a few short pages. A connection serves one request."""

    def __init__(self, answer: Callable[[str], Awaitable[Answer]], refused: Callable[[str], None]) -> None:
        """`answer(path)` makes a page; `refused(reason)` counts a connection that was closed without an answer."""
        self._make, self._refused = answer, refused
        self._server: asyncio.Server | None = None
        self._addresses: Counter[str] = Counter()

    async def start(self, host: str, port: int) -> None:
        """Raises OSError if the port cannot be had."""
        self._server = await asyncio.start_server(self._serve, host or None, port, limit=MAX_REQUEST)

    def close(self) -> None:
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = (writer.get_extra_info("peername") or ("",))[0]
        if self._addresses.total() >= MAX_CONNECTIONS or self._addresses[address] >= CONNECTIONS_PER_ADDRESS:
            self._refused("probe_connections")
            writer.transport.abort()
            return
        self._addresses[address] += 1
        try:
            await asyncio.wait_for(self._answer(reader, writer), TIMEOUT_S)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            self._refused("probe_request")
            writer.transport.abort()
        finally:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        status, kind, body = await self._checked(words)
        head_only = words[0] == "HEAD"
        writer.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(b"" if head_only else body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def _checked(self, words: list[str]) -> Answer:
        """Return the answer to the words of a request line."""
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return 400, "text/plain", b"not an HTTP request\n"
        if words[0] not in ("GET", "HEAD"):
            return 405, "text/plain", b"the methods are GET and HEAD\n"
        return await self._make(words[1].partition("?")[0].rstrip("/"))
