"""The paths of OpenAI's API."""

from __future__ import annotations

from starlette.routing import BaseRoute

from misotts_gateway.http.request import Handler, guarded_routes
from misotts_gateway.http.service import Service
from misotts_gateway.openai.errors import refusal
from misotts_gateway.openai.models import Models
from misotts_gateway.openai.speech import Speech
from misotts_gateway.openai.voices import VoicesApi


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
    return guarded_routes(table, service.callers, refusal)
