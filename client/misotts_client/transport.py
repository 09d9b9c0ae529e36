"""What the two clients share of gRPC: channel options, a call's deadline, status codes as errors."""

from typing import Any

import grpc

from misotts_client import errors
from misotts_client.request import SpeechRequest

CHANNEL_OPTIONS = (
    # A connection that went dead without being closed is noticed within 15 s of silence while a stream runs. Our
    # server takes pings 2 s apart; Triton's own default takes those closer than 300 s for abuse and hangs up.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # what today's gRPC goes by; its default is 60 s
    ("grpc.http2.max_pings_without_data", 0),  # no limit: a caller in line hears nothing for a minute
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted server is found again within seconds; gRPC's own limit is two minutes.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

_GRACE_S = 2.0

_KINDS: dict[Any, type[errors.MisoError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
}


def call_timeout_s(request: SpeechRequest) -> float | None:
    """Seconds after which the client gives up, None for never.

    The server keeps the request's own time limit; this one comes later, for a server that no longer answers.
    """
    return request.timeout_ms / 1000 + _GRACE_S if request.timeout_ms and request.timeout_ms > 0 else None


def error_from_rpc(error: Any, url: str) -> errors.MisoError:
    """The error for a gRPC call to `url` that ended with a status other than OK."""
    code, details = error.code(), error.details()
    kind = _KINDS.get(code, errors.Internal)
    return kind(f"{url}: {details or code.name}")
