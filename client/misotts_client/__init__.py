"""Streaming speech from a misotts server: `Client`, `AsyncClient`, requests, chunks and errors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from misotts_client.contract import SAMPLE_RATE
from misotts_client.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MisoError,
    NotFound,
    Unavailable,
)
from misotts_client.request import Segment, SpeechRequest
from misotts_client.speech import Chunk, Speech

if TYPE_CHECKING:
    from misotts_client.aio import AsyncClient, AsyncStream
    from misotts_client.client import Client, Stream

__all__ = [
    "SAMPLE_RATE",
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "Chunk",
    "Client",
    "DeadlineExceeded",
    "Internal",
    "InvalidArgument",
    "MisoError",
    "NotFound",
    "Segment",
    "Speech",
    "SpeechRequest",
    "Stream",
    "Unavailable",
]


def __getattr__(name: str) -> Any:
    # Loaded at first use: the server's stages import this package, and must not need gRPC.
    home = {"Client": "client", "Stream": "client", "AsyncClient": "aio", "AsyncStream": "aio"}.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
