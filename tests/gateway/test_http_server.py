"""The HTTP listener by itself."""

import asyncio
import socket
import time
from typing import Any

import pytest

from misotts.serve.local import free_ports
from misotts_gateway.connections import bound_send_buffers
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


def unread(port: int, buffer: int = 4096) -> socket.socket:
    """Ask for an answer and read nothing of it."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    caller.connect(("127.0.0.1", port))
    caller.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    return caller


async def large(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(8_000_000)})


def test_a_stop_that_takes_too_long_may_be_followed_by_another_one() -> None:
    (port,) = free_ports(1)

    async def run() -> None:
        http = HttpServer(large)
        await http.start("127.0.0.1", port)
        assert http.unsent == 0
        with unread(port):
            while not http.unsent:
                await asyncio.sleep(0.01)
            await http.stop(0.2)
            await http.stop(0)

    asyncio.run(run())


def test_a_connection_that_closes_is_cut_when_nothing_is_taken_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLOSING_S", 0.3)
    (port,) = free_ports(1)

    async def run() -> None:
        http = HttpServer(large)
        await http.start("127.0.0.1", port)
        bound_send_buffers(port)
        with unread(port) as caller:
            caller.setblocking(False)
            for _ in range(30):  # for longer than a caller that takes nothing would have
                http.close_silent()
                for _ in range(16):
                    await asyncio.get_running_loop().sock_recv(caller, 2**16)
                await asyncio.sleep(0.02)
            assert http.unsent == 1
            await asyncio.sleep(0.35)
            http.close_silent()
            await asyncio.sleep(0.35)
            http.close_silent()
            await asyncio.sleep(0)
            assert http.unsent == 0
        await http.stop(1)

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
