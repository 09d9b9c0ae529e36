"""Clients behind a network that goes silent without closing a connection."""

import asyncio
import threading
import time

import pytest

from misotts_client import AsyncClient, Client, Unavailable, transport
from tests.support.fake_triton import FakeTriton, silent
from tests.support.proxy import proxy

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients give up after less silence than usual."""
    short = {"grpc.keepalive_time_ms": 500, "grpc.http2.ping_timeout_ms": 500}
    options = tuple((name, short.get(name, value)) for name, value in transport.CHANNEL_OPTIONS)
    monkeypatch.setattr(transport, "CHANNEL_OPTIONS", options)


def test_a_dead_network_raises_unavailable(triton: FakeTriton, hasty: None) -> None:
    triton.script = silent
    swallow = threading.Event()
    with proxy(triton.url, swallow) as url, Client(url) as speaker, speaker.stream("x") as stream:
        while not triton.requests:
            time.sleep(0.01)
        swallow.set()
        started = time.monotonic()
        with pytest.raises(Unavailable):
            next(stream)
        assert time.monotonic() - started < 4


async def test_a_dead_network_raises_unavailable_in_the_async_client(triton: FakeTriton, hasty: None) -> None:
    triton.script = silent
    swallow = threading.Event()
    with proxy(triton.url, swallow) as url:
        async with AsyncClient(url) as speaker, speaker.stream("x") as stream:
            waiting = asyncio.ensure_future(anext(stream))
            while not triton.requests:
                await asyncio.sleep(0.01)
            swallow.set()
            with pytest.raises(Unavailable):
                await asyncio.wait_for(waiting, 4)
