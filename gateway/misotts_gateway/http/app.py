"""The application: the protocols' routes, and what all of them have in common.

A protocol is one entry of `PROTOCOLS`: a function that returns its routes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from misotts_gateway.callers import REQUEST_ID, request_id
from misotts_gateway.http import page
from misotts_gateway.http.service import Service
from misotts_gateway.openai import routes as openai
from misotts_gateway.openai.errors import HttpError, refusal

log = logging.getLogger(__name__)

PROTOCOLS: Sequence[Callable[[Service], list[BaseRoute]]] = (page.routes, openai.routes)

EXPOSED = ["x-request-id", "retry-after", "x-misotts-seed", "x-misotts-ignored"]
"""Headers of answers that pages of other origins may read."""


def http_app(service: Service, allowed_origins: Sequence[str] = ()) -> ASGIApp:
    """Return the application.

    Args:
        allowed_origins: origins whose pages may call this server, such as `https://app.example`; `*` is every origin.
    """
    app = Starlette(
        routes=[route for protocol in PROTOCOLS for route in protocol(service)],
        middleware=[
            Middleware(_Envelope, service=service),
            Middleware(
                CORSMiddleware,
                allow_origins=list(allowed_origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=EXPOSED,
                max_age=600,
            ),
        ],
        exception_handlers={HTTPException: _not_routed, Exception: _failed},
    )
    app.router.redirect_slashes = False  # a client that follows loses its key, or ends at http
    return app


class _Envelope:
    """Around every request: its id, the count of its answer, and the server's state in the headers."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id = request_id(Headers(scope=scope).getlist(REQUEST_ID))
        scope.setdefault("state", {})["request_id"] = id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = id
                if self._service.core.draining:
                    headers["connection"] = "close"
            await send(message)

        with self._service.answering():
            try:
                await self._app(scope, receive, send_with_headers)
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self._service.core.counts.http.labels(route, str(status)).inc()


async def _not_routed(_: Request, error: Exception) -> Response:
    """Answer a path or a method that no route has."""
    assert isinstance(error, HTTPException)
    words = {404: "there is nothing at this path", 405: "the path has other methods"}
    headers = dict(error.headers or {})
    return HttpError(error.status_code, words.get(error.status_code, error.detail), headers=headers).response()


async def _failed(request: Request, error: Exception) -> Response:
    """Answer an error that a handler raised."""
    response = refusal(error)
    if response is not None:
        return response
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return HttpError(500, "the gateway failed", "server_error", code="internal").response()
