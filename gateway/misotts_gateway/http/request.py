"""What every HTTP protocol needs of a request: its caller, and its body within limits."""

from __future__ import annotations

import asyncio

from starlette.requests import HTTPConnection, Request

from misotts_client.errors import DeadlineExceeded
from misotts_gateway.callers import REQUEST_ID, Caller, Callers

BODY_S = 30.0
"""A body that is not complete by then is refused: 10 MiB at 3 Mbit/s."""

_KEY_HEADERS = ("x-api-key", "xi-api-key")
_KEY_QUERIES = ("api_key", "access_token")


class TooLarge(Exception):  # noqa: N818 (named after HTTP's status)
    """The body is larger than its limit; the message names both."""


class WrongType(Exception):  # noqa: N818 (named like HTTP's status)
    """The body is of another type; the message names the one that is needed."""


def check_content_type(request: Request, needed: str) -> None:
    """Raises WrongType if the body is of another type than `needed`, such as `application/json`."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != needed:
        raise WrongType(f"the content type must be {needed}, got {given[:80] or 'none'}")


def identify(callers: Callers, connection: HTTPConnection) -> Caller:
    """Return the caller of a request or a WebSocket.

    Keys are also taken from `xi-api-key`, and from the query as `api_key` or `access_token`.

    Raises:
        UnknownKey: see `Callers.identify`.
    """
    headers, query = connection.headers, connection.query_params
    shown = [value for name in _KEY_HEADERS for value in headers.getlist(name)]
    shown += [value for name in _KEY_QUERIES for value in query.getlist(name)]
    named = {name: headers.getlist(name) for name in headers}
    named |= {"x-api-key": shown, REQUEST_ID: [connection.state.request_id]}
    return callers.identify(connection.client.host if connection.client else "", named)


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        TooLarge: it has more than `limit` bytes.
        DeadlineExceeded: it has not come within `BODY_S`.
        ClientDisconnect: the caller has left.
    """
    try:
        return await asyncio.wait_for(_body(request, limit), BODY_S)
    except asyncio.TimeoutError:
        raise DeadlineExceeded(f"the body must come within {BODY_S:g} s") from None


async def _body(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
        raise TooLarge(f"the body must be at most {limit} bytes, got {announced}")
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise TooLarge(f"the body must be at most {limit} bytes, got more")
    return b"".join(pieces)
