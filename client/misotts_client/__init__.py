"""Streaming speech from a misotts server: `Client`, `AsyncClient`, requests, chunks and errors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from misotts_client.aio import AsyncClient as AsyncClient
    from misotts_client.aio import AsyncStream as AsyncStream
    from misotts_client.chunk import SAMPLE_RATE as SAMPLE_RATE
    from misotts_client.chunk import Chunk as Chunk
    from misotts_client.client import Client as Client
    from misotts_client.client import Stream as Stream
    from misotts_client.errors import Cancelled as Cancelled
    from misotts_client.errors import DeadlineExceeded as DeadlineExceeded
    from misotts_client.errors import Internal as Internal
    from misotts_client.errors import InvalidArgument as InvalidArgument
    from misotts_client.errors import MisoError as MisoError
    from misotts_client.errors import NotFound as NotFound
    from misotts_client.errors import Unavailable as Unavailable
    from misotts_client.request import Segment as Segment
    from misotts_client.request import SpeechRequest as SpeechRequest
    from misotts_client.speech import Speech as Speech

# Loaded at first use: the server's stages import `misotts_client.errors`, and must not pay for (or need) gRPC.
_HOME = {
    "AsyncClient": "aio",
    "AsyncStream": "aio",
    "SAMPLE_RATE": "chunk",
    "Chunk": "chunk",
    "Client": "client",
    "Stream": "client",
    "Cancelled": "errors",
    "DeadlineExceeded": "errors",
    "Internal": "errors",
    "InvalidArgument": "errors",
    "MisoError": "errors",
    "NotFound": "errors",
    "Unavailable": "errors",
    "Segment": "request",
    "SpeechRequest": "request",
    "Speech": "speech",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
