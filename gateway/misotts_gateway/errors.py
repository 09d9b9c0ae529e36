"""The gateway's own refusals, and errors of the private side in words that name nothing of it."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from misotts_client.errors import DeadlineExceeded, Internal, InvalidArgument, MisoError, Unavailable, error_from_text

log = logging.getLogger(__name__)


class TooMany(Unavailable):
    """The caller is over a limit of its own (its address's or its key's): HTTP says 429, gRPC RESOURCE_EXHAUSTED.

    Attributes:
        reason: the label of the counter `refused`.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float) -> None:
        super().__init__(f"{message}; try again in {retry_after_s:g} s", retry_after_s)
        self.reason = reason


class Draining(Unavailable):
    """The server is shutting down."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class UnknownKey(InvalidArgument):
    """The caller shows no key that this server knows: HTTP says 401, gRPC UNAUTHENTICATED."""

    def __init__(self, message: str) -> None:
        super().__init__(None, message)
        self.args = (message,)


def status_of(error: MisoError) -> grpc.StatusCode:
    """Return the gRPC status with which a call ends for `error`."""
    if isinstance(error, TooMany):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, UnknownKey):
        return grpc.StatusCode.UNAUTHENTICATED
    return grpc.StatusCode[error.code]  # the contract's codes have gRPC's names


def public_error(text: str, request_id: str) -> MisoError:
    """Return the error that a response of the private side describes, for a caller.

    The stages' errors have a code, and their words are for callers. Triton's own have none and name its inner parts,
    and so do failures of a stage: they go to the log and become one of three sentences.
    """
    error = error_from_text(text)
    if text.rstrip().endswith(str(error)) and not isinstance(error, Internal):
        return error
    log.error("request %s: %s", request_id, text)
    if isinstance(error, Unavailable):
        return Unavailable("the server is stopping or has failed; try again in 5 s", 5.0)
    if isinstance(error, DeadlineExceeded):
        return DeadlineExceeded("the request has waited too long")
    return Internal("the server failed")


def lost_call(error: Any, request_id: str) -> MisoError:
    """Return the error of a private call that ended with a status other than OK (a `grpc.RpcError`)."""
    details = error.details() or ""
    told = error_from_text(details)
    if details == str(told):  # the refusal of another gateway
        return told
    log.error("request %s: %s: %s", request_id, error.code().name, details)
    return Unavailable("the server does not answer; try again in 5 s", 5.0)
