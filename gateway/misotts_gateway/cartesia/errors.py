"""Errors as Cartesia's clients read them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

from misotts_gateway.http.errors import HttpError, refused
from misotts_gateway.http.request import SESSION

NAMES = {"TEXT": "transcript", "SESSION": SESSION}


def error_content(error: Exception, request_id: str = "") -> dict[str, Any]:
    """Return an error as an object; one that is no refusal as a failure of ours."""
    found = refused(error, NAMES) or HttpError(500, "the gateway failed", code="internal")
    return {
        "title": HTTPStatus(found.status).phrase,
        "message": found.message,
        "error": found.message,  # where clients of older versions look
        "error_code": found.code or "invalid_request",
        "status_code": found.status,
        "request_id": request_id,
    }


def refusal(error: Exception) -> Response | None:
    """Return the response to an error that refuses a request; None for a fault of ours."""
    found = refused(error, NAMES)
    return JSONResponse(error_content(found), found.status, found.headers) if found else None
