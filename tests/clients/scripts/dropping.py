"""A way to the server that can be cut."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit


class Dropping:
    """Forwards connections to a server, and cuts them when it is told to."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        """Listen; return the address that leads to the server."""
        listener = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        return f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"

    def drop(self) -> int:
        """Cut all connections without a goodbye; return their number."""
        cut = len(self._open)
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()
        return cut // 2

    async def _forward(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        far_reader, far = await asyncio.open_connection(self._server.hostname, self._server.port)
        self._open |= {near, far}
        await asyncio.gather(_copy(near_reader, far), _copy(far_reader, near))
        self._open -= {near, far}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
        writer.close()
    except (OSError, asyncio.CancelledError):
        writer.transport.abort()
