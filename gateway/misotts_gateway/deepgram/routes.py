"""The path of Deepgram's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import BaseRoute

from misotts_gateway.deepgram.errors import refusal
from misotts_gateway.deepgram.schema import read_query
from misotts_gateway.deepgram.socket import DeepgramSocket
from misotts_gateway.http.answer import StreamingAnswer
from misotts_gateway.http.request import guarded_routes
from misotts_gateway.http.service import Service
from misotts_gateway.http.spoken import read_fields, spoken_text
from misotts_gateway.json_fields import read_text
from misotts_gateway.sockets.socket import socket_route

PATH = "/v1/speak"


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the API; each needs a key where the server has a file of keys."""

    async def speak(request: Request) -> StreamingAnswer:
        query = read_query(request, file=True)
        given = (await read_fields(request, service)).required("text", read_text)
        text = await spoken_text(service, request, given, query.voice, "text")
        headers = {"content-type": query.format.content_type}
        return StreamingAnswer(lambda: text.raw(query.format, query.rate), lambda: headers, refusal)

    return [
        socket_route(PATH, service, DeepgramSocket, refusal),
        *guarded_routes([(PATH, "POST", speak)], service.callers, refusal),
    ]
