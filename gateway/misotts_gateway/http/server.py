"""The listener of HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from misotts_gateway.files import file_version
from misotts_gateway.listeners import ListenError
from misotts_gateway.sockets.frames import BoundedFrames
from misotts_gateway.sockets.limits import MAX_MESSAGE, PING_S, PONG_S

log = logging.getLogger(__name__)

IDLE_S = 75.0
"""A connection without a request is closed after this time."""
FIRST_REQUEST_S = 10.0
"""A connection that has not sent a request's headers by then is closed."""
CLOSING_S = 30.0
"""A connection that is being closed and has taken nothing for this time is cut. The kernel takes more when a third of
what it holds (48 KB) is sent, which lasts 16 s at 24 kbit/s."""
MAX_HEADERS = 32 * 2**10
"""Bytes of a request's line and headers."""

# uvicorn reports answers that we cut on purpose as errors of the application; what fails is logged by the application.
logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


class HttpServer:
    """Serves an application on a port, in the event loop that runs.

    Args:
        app: the application.
        tls: certificate chain and key (PEM); None for plain HTTP.
    """

    def __init__(self, app: ASGIApp, tls: tuple[Path, Path] | None = None) -> None:
        """Raises ListenError if the certificate and the key cannot be used."""
        chain, key = tls or (None, None)
        config = uvicorn.Config(
            app,
            http="h11",  # the parser that bounds headers
            ws=BoundedFrames,
            ws_max_size=MAX_MESSAGE,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PONG_S,
            ws_per_message_deflate=False,  # it would cost three times the CPU time of the rest
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(IDLE_S),
            h11_max_incomplete_event_size=MAX_HEADERS,
            ssl_certfile=chain,
            ssl_keyfile=key,
        )
        self._version = [file_version(path) for path in tls or ()]
        try:
            config.load()
        except OSError as error:  # TLS's own errors are OSErrors too, and neither kind names the file
            words = f"cannot use the certificate {chain} with the key {key}: {error.strerror}"
            raise ListenError(words) from None
        self._server = _Server(config)
        self._tls = tls
        self._running: asyncio.Task[None] | None = None
        self._silent_since: dict[Any, float] = {}
        self._closing_since: dict[Any, tuple[int, float]] = {}
        """What a connection has not taken, in bytes, and since when it is so much."""

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError, whose file name names the port, if the port cannot be had."""
        sockets = _listen(host, port)
        self._running = asyncio.create_task(self._server.serve(sockets))
        while not self._server.started and not self._running.done():
            await asyncio.sleep(0.005)

    def close_silent(self) -> None:
        """Close the connections that have sent no complete request for `FIRST_REQUEST_S`, and cut those that are
        closing and have taken nothing for `CLOSING_S`. Called every second or so.

        uvicorn itself waits without end for a first request, and for a caller that reads nothing of the last answer.
        """
        now = time.monotonic()
        connections = self._connections()
        silent = {each for each in connections if getattr(each, "cycle", each) is None}
        closing = {each for each in connections if each.transport.is_closing()}
        self._silent_since = {each: self._silent_since.get(each, now) for each in silent - closing}
        left = {each: each.transport.get_write_buffer_size() for each in closing}
        earlier = self._closing_since
        self._closing_since = {
            each: earlier[each] if each in earlier and earlier[each][0] == size else (size, now)
            for each, size in left.items()
        }
        for each, since in self._silent_since.items():
            if now - since > FIRST_REQUEST_S:
                each.transport.close()
        for each, (_, since) in self._closing_since.items():
            if now - since > CLOSING_S:
                each.transport.abort()

    def reread_certificate(self) -> None:
        """Use the certificate's files as they are now, for connections that come."""
        if self._tls is None or self._server.config.ssl is None:
            return
        version = [file_version(path) for path in self._tls]
        if version == self._version:
            return
        self._version = version
        try:
            self._server.config.ssl.load_cert_chain(*self._tls)
        except OSError as error:
            log.error("HTTP's certificate stays as it was: %s", error)

    @property
    def unsent(self) -> int:
        """Number of connections of which the kernel has not got every byte."""
        transports = [each.transport for each in self._connections()]
        return sum(each.is_closing() or each.get_write_buffer_size() > 0 for each in transports)

    async def stop(self, timeout_s: float) -> None:
        """Accept no more connections, and return when the answers that have begun are complete, or after a time. It
        may be called again."""
        if self._running is None:
            return
        self._server.should_exit = True
        await asyncio.wait({self._running}, timeout=timeout_s)
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    def _connections(self) -> list[Any]:
        return [each for each in self._server.server_state.connections if each.transport is not None]


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's own matter."""
        yield


def _listen(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets of every address of a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as opened:
        sockets = []
        for family, kind, protocol, _, address in dict.fromkeys(found):
            each = opened.enter_context(socket.socket(family, kind, protocol))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                each.bind(address)
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"the HTTP port {port} of {host}") from None
            each.setblocking(False)
            sockets.append(each)
        opened.pop_all()
    return sockets
