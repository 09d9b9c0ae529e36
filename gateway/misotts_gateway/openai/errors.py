"""Errors as OpenAI's clients read them: a status, and `{"error": {"message", "type", "param", "code"}}`."""

import math
from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from misotts_client import errors
from misotts_gateway.errors import TooMany, UnknownKey
from misotts_gateway.http.request import TooLarge, WrongType

_PARAMS = {"TEXT": "input", "CONTEXT_TEXT": "input"}
"""Names of fields that differ from the contract's."""
_LONGEST_RETRY_S = 60
"""OpenAI's Python client makes up a time of its own for 0 and gives up beyond 120."""


class HttpError(Exception):
    """One error of the API.

    Args:
        status: of HTTP.
        message: one line that says what is wrong.
        type: OpenAI's class of the error.
        param: field of the request that is at fault; None if no single one is.
        code: OpenAI's name of the error, or ours.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, dict(headers or {})
        self.content = {"error": {"message": message, "type": type, "param": param, "code": code}}
        """The body."""

    def response(self) -> JSONResponse:
        return JSONResponse(self.content, self.status, self.headers)


def refusal(error: Exception) -> Response | None:
    """Return the response to an error that refuses a request; None for a fault of ours."""
    found = refused(error)
    return found.response() if found else None


def refused(error: Exception) -> HttpError | None:
    """Return an error that refuses a request as one of the API; None for a fault of ours."""
    match error:
        case HttpError():
            return error
        case errors.MisoError():
            return http_error(error)
        case TooLarge():
            return HttpError(413, str(error), code="request_too_large")
        case WrongType():
            return HttpError(415, str(error), code="unsupported_media_type")
        case ClientDisconnect():
            return HttpError(400, "the caller has left")
        case _:
            return None


def http_error(error: errors.MisoError) -> HttpError:
    """Return an error of the service as one of the API."""
    param = None
    message = error.message
    if isinstance(error, errors.FieldError) and error.field:
        param = _PARAMS.get(error.field, error.field.lower())
        message = f"{param}: {message}"
    match error:
        case UnknownKey():
            return HttpError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        case errors.NotFound():
            return HttpError(404, message, param=param, code="voice_not_found" if param == "voice" else "not_found")
        case errors.InvalidArgument():
            return HttpError(400, message, param=param, code="invalid_value")
        case TooMany():
            headers = retry_after(error.retry_after_s)
            return HttpError(429, message, "rate_limit_error", code="rate_limit_exceeded", headers=headers)
        case errors.Unavailable():
            headers = retry_after(error.retry_after_s)
            return HttpError(503, message, "server_error", code="unavailable", headers=headers)
        case errors.DeadlineExceeded():
            return HttpError(504, message, "server_error", code="deadline_exceeded")
        case _:
            return HttpError(502, message, "server_error", code=error.code.lower())


def retry_after(seconds: float | None) -> dict[str, str]:
    """Return the header that asks a caller to wait: whole seconds from 1 to 60."""
    return {"retry-after": str(min(max(math.ceil(seconds or 1), 1), _LONGEST_RETRY_S))}
