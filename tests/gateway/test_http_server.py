"""The HTTP listener by itself."""

import asyncio
import time
from typing import Any

import pytest

from misotts.serve.local import free_ports
from misotts_gateway.http import server
from misotts_gateway.http.server import HttpServer


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


def test_a_connection_without_a_request_is_closed_and_one_with_requests_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_S", 0.3)
    (port,) = free_ports(1)

    async def run() -> None:
        http = HttpServer(hello)
        await http.start("127.0.0.1", port)
        silent, _ = await asyncio.open_connection("127.0.0.1", port)
        half, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nx-a: ")
        busy, asking = await asyncio.open_connection("127.0.0.1", port)
        limit = time.monotonic() + 1.0
        answers = 0
        while time.monotonic() < limit:
            http.close_silent()
            asking.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            answers += (await busy.readuntil(b"hi")).endswith(b"hi")
        assert answers > 10
        assert await silent.read() == b""
        assert await half.read() == b""
        await http.stop(1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(run())


def test_a_port_that_is_taken_and_a_host_without_an_address() -> None:
    (port,) = free_ports(1)

    async def run() -> None:
        first, second = HttpServer(hello), HttpServer(hello)
        await first.start("127.0.0.1", port)
        with pytest.raises(OSError, match="in use") as caught:
            await second.start("127.0.0.1", port)
        assert caught.value.filename == f"the HTTP port {port} of 127.0.0.1"
        await first.stop(0)

    asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::"])
def test_hosts(host: str) -> None:
    (port,) = free_ports(1)

    async def run() -> None:
        http = HttpServer(hello)
        await http.start(host, port)
        target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        reader, writer = await asyncio.open_connection(target, port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200")
        writer.close()
        await http.stop(1)

    asyncio.run(run())
