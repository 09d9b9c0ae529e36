"""The application: the protocols' routes, and what all of them have in common.

A protocol is one entry of `PROTOCOLS`: a function that returns its routes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from misotts_gateway.callers import REQUEST_ID, request_id
from misotts_gateway.cartesia import routes as cartesia
from misotts_gateway.deepgram import routes as deepgram
from misotts_gateway.elevenlabs import routes as elevenlabs
from misotts_gateway.http import page
from misotts_gateway.http.errors import HttpError, refused
from misotts_gateway.http.service import Service
from misotts_gateway.openai import routes as openai

log = logging.getLogger(__name__)

PROTOCOLS: Sequence[Callable[[Service], list[BaseRoute]]] = (
    page.routes,
    openai.routes,
    cartesia.routes,
    elevenlabs.routes,
    deepgram.routes,
)

EXPOSED = ["x-request-id", "retry-after", "x-misotts-seed", "x-misotts-ignored"]
"""Headers of answers that pages of other origins may read."""

SWITCHING = 101
"""The status of a WebSocket that was accepted."""
_BEGINNINGS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
_WORDS = {404: "there is nothing at this path", 405: "the path has other methods"}


def http_app(service: Service) -> ASGIApp:
    """Return the application."""
    app = Starlette(
        routes=[route for protocol in PROTOCOLS for route in protocol(service)],
        middleware=[
            Middleware(_Envelope, service=service),
            Middleware(
                CORSMiddleware,
                allow_origins=list(service.allowed_origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=EXPOSED,
                max_age=600,
            ),
        ],
        exception_handlers={HTTPException: _not_routed, Exception: _failed},
    )
    app.router.default = _no_such_path
    app.router.redirect_slashes = False  # a client that follows loses its key, or ends at http
    return app


class _Envelope:
    """Around every request and WebSocket: its id, the count of its answer, and the server's state in the headers."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        id = request_id(Headers(scope=scope).getlist(REQUEST_ID))
        scope.setdefault("state", {})["request_id"] = id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in _BEGINNINGS:
                status = message.get("status", SWITCHING)
                message["headers"] = list(message.get("headers", ()))
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = id
                if self._service.core.draining and status != SWITCHING:
                    headers["connection"] = "close"
            await send(message)

        # A WebSocket counts while it speaks.
        with self._service.answering() if scope["type"] == "http" else nullcontext():
            try:
                await self._app(scope, receive, send_with_headers)
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self._service.core.counts.http.labels(route, str(status)).inc()


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a path that no route has."""
    response = HttpError(404, _WORDS[404]).response()
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)


async def _not_routed(_: Request, error: Exception) -> Response:
    """Answer a method that the path has no route for."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return HttpError(error.status_code, _WORDS.get(error.status_code, error.detail), headers=headers).response()


async def _failed(request: Request, error: Exception) -> Response:
    """Answer an error that a handler raised."""
    found = refused(error, {})
    if found is not None:
        return found.response()
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return HttpError(500, "the gateway failed", "server_error", code="internal").response()
