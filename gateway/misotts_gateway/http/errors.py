"""Errors over HTTP and WebSockets: a status, a sentence, the field at fault and a name.

The protocols have forms of their own for them. OpenAI's, `{"error": {"message", "type", "param", "code"}}`, is also the
form of an answer that belongs to no protocol.
"""

import math
from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from misotts_client import errors
from misotts_gateway.errors import TooMany, UnknownKey
from misotts_gateway.http.request import TooLarge, WrongType

Names = Mapping[str, str]
"""How callers of a protocol name the contract's inputs, such as `{"TEXT": "input"}`; others in lower case."""

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


def refused(error: Exception, names: Names) -> HttpError | None:
    """Return an error that refuses a request, in words for callers; None for a fault of ours."""
    match error:
        case HttpError():
            return error
        case errors.MisoError():
            return http_error(error, names)
        case TooLarge():
            return HttpError(413, str(error), code="request_too_large")
        case WrongType():
            return HttpError(415, str(error), code="unsupported_media_type")
        case ClientDisconnect():
            return HttpError(400, "the caller has left")
        case _:
            return None


def http_error(error: errors.MisoError, names: Names) -> HttpError:
    """Return an error of the service in words for callers."""
    param = field = None
    message = error.message
    if isinstance(error, errors.FieldError) and error.field:
        field = error.field
        param = names.get(field, field.lower())
        message = f"{param}: {message}"
    match error:
        case UnknownKey():
            return HttpError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        case errors.NotFound():
            return HttpError(404, message, param=param, code="voice_not_found" if field == "VOICE" else "not_found")
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
