"""What every HTTP protocol needs of a request: its caller, and its body within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from misotts_client.contract import SESSION_NAME
from misotts_client.errors import DeadlineExceeded, InvalidArgument
from misotts_gateway.callers import REQUEST_ID, Caller, Callers

BODY_S = 30.0
"""A body that is not complete by then is refused: 10 MiB at 3 Mbit/s."""

_KEY_HEADERS = ("x-api-key", "xi-api-key")
_KEY_QUERIES = ("api_key", "access_token")
_KEY_SUBPROTOCOLS = ("token", "bearer")
"""A browser can set no header of a WebSocket; Deepgram's clients send the subprotocols `token` and the key."""

SESSION = "x-misotts-session"
"""Header or query that names a conversation."""

Handler = Callable[[Request], Awaitable[Any]]
Refuse = Callable[[Exception], Response | None]


class TooLarge(Exception):  # noqa: N818 (named after HTTP's status)
    """The body is larger than its limit; the message names both."""


class WrongType(Exception):  # noqa: N818 (named like HTTP's status)
    """The body is of another type; the message names the one that is needed."""


def check_content_type(request: Request, needed: str) -> None:
    """Raises WrongType if the body is of another type than `needed`, such as `application/json`."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != needed:
        raise WrongType(f"the content type must be {needed}, got {given[:80] or 'none'}")


def guarded_routes(table: Sequence[tuple[str, str, Handler]], callers: Callers, refuse: Refuse) -> list[BaseRoute]:
    """Return routes of paths, methods and handlers, which find their caller in `request.state.caller`.

    Args:
        refuse: returns the response to an error that refuses a request; None for a fault of ours.
    """
    return [Route(path, _guarded(handler, callers, refuse), methods=[method]) for path, method, handler in table]


def _guarded(handler: Handler, callers: Callers, refuse: Refuse) -> Handler:
    @wraps(handler)
    async def guarded(request: Request) -> Any:
        try:
            request.state.caller = identify(callers, request)
            return await handler(request)
        except Exception as error:
            response = refuse(error)
            if response is None:
                raise
            return response

    return guarded


def identify(callers: Callers, connection: HTTPConnection) -> Caller:
    """Return the caller of a request or a WebSocket.

    Keys are also taken from `xi-api-key`, from the query as `api_key` or `access_token`, and from the subprotocols of a
    WebSocket.

    Raises:
        UnknownKey: see `Callers.identify`.
    """
    headers, query = connection.headers, connection.query_params
    shown = [value for name in _KEY_HEADERS for value in headers.getlist(name)]
    shown += [value for name in _KEY_QUERIES for value in query.getlist(name)]
    shown += offered[1:] if len(offered := subprotocols(connection)) == 2 and key_subprotocol(connection) else []
    named = {name: headers.getlist(name) for name in headers}
    named |= {"x-api-key": shown, REQUEST_ID: [connection.state.request_id]}
    return callers.identify(connection.client.host if connection.client else "", named)


def key_subprotocol(connection: HTTPConnection) -> str | None:
    """Return the subprotocol that says that the next one is a key: the answer has to select it."""
    offered = subprotocols(connection)
    return offered[0] if offered and offered[0].lower() in _KEY_SUBPROTOCOLS else None


def subprotocols(connection: HTTPConnection) -> list[str]:
    """Return the subprotocols that a WebSocket offers."""
    return list(connection.scope.get("subprotocols", ()))


def session_name(connection: HTTPConnection) -> str | None:
    """Return the conversation that a request or a WebSocket names; None if it names none.

    Raises:
        InvalidArgument: it cannot be the name of a conversation.
    """
    name = connection.headers.get(SESSION) or connection.query_params.get(SESSION)
    if name and not SESSION_NAME.fullmatch(name):
        raise InvalidArgument(SESSION, f"must match {SESSION_NAME.pattern}, got {name[:80]!r}")
    return name or None


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
