"""Errors as OpenAI's clients read them."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from misotts_client.errors import MisoError
from misotts_gateway.http.errors import http_error, refused

NAMES = {"TEXT": "input"}


def refusal(error: Exception) -> Response | None:
    """Return the response to an error that refuses a request; None for a fault of ours."""
    found = refused(error, NAMES)
    return found.response() if found else None


def error_content(error: MisoError) -> dict[str, Any]:
    """Return an error as an object."""
    return http_error(error, NAMES).content
