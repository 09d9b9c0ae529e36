"""Answers that come while they are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Refuse = Callable[[Exception], Response | None]

_STREAMED = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class StreamingAnswer:
    """An answer whose status waits for its first bytes, and which ends with its caller.

    `make()` yields the bytes of the body. What it raises before the first of them becomes the response that `refuse`
    returns; later, the connection is cut, which tells the caller that the body is not complete. When the caller leaves,
    before or after the first bytes, the generator is closed at once.

    Args:
        headers: returns the headers of a successful answer when its first bytes have come; those that keep caches and
            proxies from holding audio back are added.
    """

    def __init__(
        self, make: Callable[[], AsyncGenerator[bytes]], headers: Callable[[], Mapping[str, str]], refuse: Refuse
    ) -> None:
        self._make, self._headers, self._refuse = make, headers, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.create_task(self._answer(scope, receive, send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async with aclosing(self._make()) as pieces:
                async for piece in pieces:
                    if not started:
                        started = True
                        headers = _raw({**self._headers(), **_STREAMED})
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception as error:
            response = self._refuse(error)
            if response is None:
                raise
            if not started:
                await response(scope, receive, send)
            return  # without the end of the body, if it has begun: the server cuts the connection
        await send({"type": "http.response.body", "body": b""})


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def _until_gone(receive: Callable[[], Awaitable[Mapping[str, object]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
