"""The paths of Cartesia's API."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from misotts_gateway.cartesia.errors import refusal
from misotts_gateway.cartesia.http import CartesiaHttp
from misotts_gateway.cartesia.socket import CartesiaSocket
from misotts_gateway.http.request import Handler, guarded_routes
from misotts_gateway.http.service import Service
from misotts_gateway.sockets.socket import socket_route


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the API; each needs a key where the server has a file of keys."""
    http = CartesiaHttp(service)

    async def voices(request: Request) -> Response:
        listed = service.voices.listed(request.state.caller.tenant)
        entries = [{"id": each["id"], "name": each["name"], "description": "", "language": "en"} for each in listed]
        return JSONResponse({"data": entries, "has_more": False, "next_page": None})

    table: list[tuple[str, str, Handler]] = [
        ("/tts/bytes", "POST", http.bytes),
        ("/tts/sse", "POST", http.events),
        ("/voices", "GET", voices),
    ]
    return [
        socket_route("/tts/websocket", service, CartesiaSocket, refusal),
        *guarded_routes(table, service.callers, refusal),
    ]
