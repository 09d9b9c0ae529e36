"""Errors as ElevenLabs' clients read them."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from misotts_client.errors import MisoError
from misotts_gateway.http.errors import http_error, refused
from misotts_gateway.http.request import SESSION
from misotts_gateway.sockets.socket import POLICY

NAMES = {"VOICE": "voice_id", "SESSION": SESSION}


def refusal(error: Exception) -> Response | None:
    """Return the response to an error that refuses a request; None for a fault of ours."""
    found = refused(error, NAMES)
    if found is None:
        return None
    detail = {"status": found.code or "invalid_request", "message": found.message}
    return JSONResponse({"detail": detail}, found.status, found.headers)


def error_message(error: MisoError) -> dict[str, Any]:
    """Return the message that tells of an error on a WebSocket."""
    found = http_error(error, NAMES)
    return {"message": found.message, "error": found.code or "invalid_request", "code": POLICY}
