"""The paths of ElevenLabs' API."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from misotts_gateway.elevenlabs.errors import refusal
from misotts_gateway.elevenlabs.http import ElevenLabsHttp
from misotts_gateway.elevenlabs.socket import MultiStreamInput, StreamInput
from misotts_gateway.http.request import Handler, guarded_routes
from misotts_gateway.http.service import Service
from misotts_gateway.sockets.socket import socket_route

SPEECH = "/v1/text-to-speech/{voice_id}"


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the API; each needs a key where the server has a file of keys."""
    http = ElevenLabsHttp(service)

    def listed(request: Request) -> list[dict[str, Any]]:
        names = [each["id"] for each in service.voices.listed(request.state.caller.tenant)]
        return [{"voice_id": name, "name": name, "category": "premade"} for name in names]

    async def voices(request: Request) -> Response:
        return JSONResponse({"voices": listed(request)})

    async def voices_v2(request: Request) -> Response:
        found = listed(request)
        return JSONResponse({"voices": found, "has_more": False, "total_count": len(found), "next_page_token": None})

    table: list[tuple[str, str, Handler]] = [
        (SPEECH, "POST", http.audio),
        (f"{SPEECH}/stream", "POST", http.audio),
        (f"{SPEECH}/with-timestamps", "POST", http.timed),
        (f"{SPEECH}/stream/with-timestamps", "POST", http.timed_lines),
        ("/v1/voices", "GET", voices),
        ("/v2/voices", "GET", voices_v2),
    ]
    return [
        socket_route(f"{SPEECH}/stream-input", service, StreamInput, refusal),
        socket_route(f"{SPEECH}/multi-stream-input", service, MultiStreamInput, refusal),
        *guarded_routes(table, service.callers, refusal),
    ]
