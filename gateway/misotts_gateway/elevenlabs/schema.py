"""ElevenLabs' queries and bodies, checked, and its alignments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from misotts_client.errors import InvalidArgument
from misotts_client.request import SpeechRequest
from misotts_gateway.audio.formats import FORMATS, Format
from misotts_gateway.http.service import Service
from misotts_gateway.text.times import Timed

DEFAULT_FORMAT = "mp3_44100_128"
IDLE_S = 20.0
MAX_IDLE_S = 300.0
"""LiveKit asks for this; ElevenLabs itself takes up to 180 s."""

_OUTPUT: Mapping[str, tuple[Format, int]] = {
    **{f"mp3_{each}": (FORMATS["mp3"], int(each.partition("_")[0])) for each in ("22050_32", "24000_48")},
    **{f"mp3_44100_{rate}": (FORMATS["mp3"], 44_100) for rate in (32, 64, 96, 128, 192)},
    **{f"pcm_{rate}": (FORMATS["pcm"], rate) for rate in (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)},
    "ulaw_8000": (FORMATS["mulaw"], 8_000),
    "alaw_8000": (FORMATS["alaw"], 8_000),
    **{f"opus_48000_{rate}": (FORMATS["opus"], 48_000) for rate in (32, 64, 96, 128, 192)},
}
"""Bit rates are the formats' own."""


def output_format(connection: HTTPConnection) -> tuple[Format, int]:
    """Return the format and the rate that a query asks for.

    Raises:
        InvalidArgument: there is no such format.
    """
    name = connection.query_params.get("output_format") or DEFAULT_FORMAT
    if name not in _OUTPUT:
        raise InvalidArgument("output_format", f"must be one of {', '.join(_OUTPUT)}, got {name[:80]!r}")
    return _OUTPUT[name]


@dataclass(frozen=True)
class SocketQuery:
    """What the address of a WebSocket says.

    Attributes:
        request: the voice.
        format: what to encode, at `rate` Hz.
        complete: True if a message is an utterance.
        idle_s: the socket is closed after this time of silence.
    """

    request: SpeechRequest
    format: Format
    rate: int
    complete: bool
    idle_s: float


def read_query(service: Service, tenant: str, connection: HTTPConnection) -> SocketQuery:
    """Return what the address of a WebSocket says.

    Raises:
        InvalidArgument: a parameter is wrong.
        NotFound: there is no such voice.
    """
    query = connection.query_params
    format, rate = output_format(connection)
    chosen = service.voices.resolve(connection.path_params["voice_id"], tenant)
    idle = query.get("inactivity_timeout") or f"{IDLE_S:g}"
    if not idle.isdecimal() or len(idle) > 9 or not 1 <= int(idle) <= MAX_IDLE_S:
        raise InvalidArgument("inactivity_timeout", f"must be 1 to {MAX_IDLE_S:g} seconds, got {idle[:80]!r}")
    complete = query.get("auto_mode", "false").lower() == "true"
    return SocketQuery(
        SpeechRequest("", voice=chosen.voice, speaker=chosen.speaker), format, rate, complete, float(idle)
    )


def alignment(times: Sequence[Timed], begin_s: float, end_s: float) -> dict[str, Any]:
    """Return the estimated times of characters in a message: ms from the beginning of its audio.

    Clients add up what each message spans, so it is the length of the audio. Audio behind the text is a space.
    """
    pieces = times or [Timed(" ", begin_s, end_s)]
    starts = [min(max(round((each.start - begin_s) * 1000), 0), round((end_s - begin_s) * 1000)) for each in pieces]
    ends = [*starts[1:], round((end_s - begin_s) * 1000)]
    return {
        "chars": [each.text for each in pieces],
        "charStartTimesMs": starts,
        "charDurationsMs": [end - start for start, end in zip(starts, ends, strict=True)],
    }


def http_alignment(times: Sequence[Timed]) -> dict[str, Any]:
    """Return the estimated times of characters in an answer over HTTP: seconds from the beginning of the answer."""
    return {
        "characters": [each.text for each in times],
        "character_start_times_seconds": [round(each.start, 3) for each in times],
        "character_end_times_seconds": [round(each.end, 3) for each in times],
    }
