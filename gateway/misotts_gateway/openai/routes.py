"""The paths of OpenAI's API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from misotts_gateway.http.request import identify
from misotts_gateway.http.service import Service
from misotts_gateway.openai.errors import refusal
from misotts_gateway.openai.models import Models
from misotts_gateway.openai.speech import Speech
from misotts_gateway.openai.voices import VoicesApi

Handler = Callable[[Request], Awaitable[Any]]


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the API; each needs a key where the server has a file of keys."""
    speech, voices, models = Speech(service), VoicesApi(service), Models(service)
    table: list[tuple[str, str, Handler]] = [
        ("/v1/audio/speech", "POST", speech.post),
        ("/v1/audio/voices", "GET", voices.listed),
        ("/v1/audio/voices", "POST", voices.add),
        ("/v1/audio/voices/{name}", "DELETE", voices.remove),
        ("/v1/models", "GET", models.listed),
        ("/v1/models/{name}", "GET", models.one),
    ]
    return [Route(path, _guarded(handler, service), methods=[method]) for path, method, handler in table]


def _guarded(handler: Handler, service: Service) -> Handler:
    """Return a handler that knows its caller in `request.state.caller`, and answers refusals itself."""

    @wraps(handler)
    async def guarded(request: Request) -> Any:
        try:
            request.state.caller = identify(service.callers, request)
            return await handler(request)
        except Exception as error:
            response: Response | None = refusal(error)
            if response is None:
                raise
            return response

    return guarded
