"""Deepgram's queries, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from misotts_client.errors import InvalidArgument
from misotts_gateway.audio.formats import FORMATS, RAW, Format

_SOCKET: Mapping[str, Format] = {"linear16": RAW["pcm_s16le"], "mulaw": RAW["pcm_mulaw"], "alaw": RAW["pcm_alaw"]}
_FILES: Mapping[str, Format] = {name: FORMATS[name] for name in ("mp3", "opus", "flac", "aac")}
_CONTAINERS: Mapping[str, tuple[str, ...]] = {
    "linear16": ("wav", "none"),
    "mulaw": ("none",),
    "alaw": ("none",),
    "opus": ("ogg",),
}
"""What can be asked for, the default first; the others have no container."""


@dataclass(frozen=True)
class Query:
    """What an address asks for.

    Attributes:
        voice: as the caller names it, which is Deepgram's `model`; None: the model's own.
        format: what to encode, at `rate` Hz.
    """

    voice: str | None
    format: Format
    rate: int


def read_query(connection: HTTPConnection, file: bool) -> Query:
    """Return what an address asks for.

    Args:
        file: True for HTTP, which has more formats and puts samples into a WAV file.

    Raises:
        InvalidArgument: a parameter is wrong.
    """
    query = connection.query_params
    formats = {**_SOCKET, **_FILES} if file else _SOCKET
    encoding = _one_of("encoding", query.get("encoding") or ("mp3" if file else "linear16"), formats)
    format = formats[encoding]
    if format.extra:
        raise InvalidArgument("encoding", f"{encoding} needs misotts-gateway[{format.extra}], which is not installed")
    if file:
        containers = _CONTAINERS.get(encoding, ("none",))
        if _one_of("container", query.get("container") or containers[0], containers) == "wav":
            format = FORMATS["wav"]
    default = 8_000 if encoding in ("mulaw", "alaw") else format.default_rate
    rate = _one_of("sample_rate", query.get("sample_rate") or str(default), [str(rate) for rate in format.rates])
    speed = query.get("speed") or "1"
    if speed not in ("1", "1.0"):
        raise InvalidArgument("speed", f"must be 1, the model has no other; got {speed[:80]!r}")
    return Query(query.get("model") or None, format, int(rate))


def _one_of(name: str, value: str, choices: Any) -> str:
    if value not in choices:
        raise InvalidArgument(name, f"must be one of {', '.join(choices)}, got {value[:80]!r}")
    return value
