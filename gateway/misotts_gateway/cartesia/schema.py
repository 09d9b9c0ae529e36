"""Cartesia's requests, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from misotts_client.errors import InvalidArgument
from misotts_client.request import SpeechRequest
from misotts_gateway.audio.formats import FORMATS, RATES, RAW, Format
from misotts_gateway.http.service import Service
from misotts_gateway.json_fields import Fields, read_flag, read_object, read_text, whole
from misotts_gateway.sockets.limits import MAX_ID
from misotts_gateway.text.times import Timed

DELAY_MS = 3_000
"""Text waits this long for the end of its sentence, unless the request says otherwise."""
MAX_DELAY_MS = 5_000
REPEATED = ("voice", "output_format", "add_timestamps", "max_buffer_delay_ms")
"""Fields that clients repeat in every message of a context."""


@dataclass(frozen=True)
class Settings:
    """What stays the same in a context.

    Attributes:
        voice: as the caller names it; None: the model's own.
        format: what to encode, at `rate` Hz.
        words: True if times of words are wanted.
        delay_ms: 0: a message is an utterance.
    """

    voice: str | None
    format: Format
    rate: int
    words: bool
    delay_ms: int

    def agrees(self, other: Settings, field: str) -> bool:
        """True if a field of `REPEATED` is the same in both."""
        if field == "output_format":
            return (self.format, self.rate) == (other.format, other.rate)
        name = {"add_timestamps": "words", "max_buffer_delay_ms": "delay_ms"}.get(field, field)
        return bool(getattr(self, name) == getattr(other, name))

    def request(self, service: Service, tenant: str) -> SpeechRequest:
        """Return a request without a text.

        Raises:
            NotFound: there is no such voice.
        """
        chosen = service.voices.resolve(self.voice, tenant)
        return SpeechRequest("", voice=chosen.voice, speaker=chosen.speaker)


def read_settings(fields: Fields, containers: tuple[str, ...] = ("raw",)) -> Settings:
    """Return the settings of a request.

    Raises:
        InvalidArgument: a field is wrong.
    """
    format, rate = _format(Fields(fields.required("output_format", read_object)), containers)
    return Settings(
        voice=fields.take("voice", None, _voice),
        format=format,
        rate=rate,
        words=fields.take("add_timestamps", False, read_flag),
        delay_ms=fields.take("max_buffer_delay_ms", DELAY_MS, whole(0, MAX_DELAY_MS)),
    )


def read_context_id(name: str, value: Any) -> str:
    """Return the name of a context. Raises InvalidArgument."""
    text = read_text(name, value)
    if not 1 <= len(text) <= MAX_ID:
        raise InvalidArgument(name, f"must have 1 to {MAX_ID} characters, got {len(text)}")
    return text


def times_content(times: Sequence[Timed]) -> dict[str, Any]:
    """Return the estimated times of words as Cartesia's messages have them."""
    return {
        "words": [each.text for each in times],
        "start": [round(each.start, 3) for each in times],
        "end": [round(each.end, 3) for each in times],
    }


def _voice(name: str, value: Any) -> str:
    """Return the name of a voice, which comes as text, `{"id": ...}` or `{"mode": "id", "id": ...}`."""
    return read_text(name, value.get("id") if isinstance(value, dict) else value)


def _format(fields: Fields, containers: tuple[str, ...]) -> tuple[Format, int]:
    try:
        container = fields.one_of("container", "raw", containers)
        if container == "raw":
            format = RAW[fields.one_of("encoding", "pcm_s16le", RAW)]
        else:
            format = FORMATS[container]
            if container == "wav":
                fields.one_of("encoding", "pcm_s16le", ("pcm_s16le",))
        return format, fields.one_of("sample_rate", format.default_rate, RATES)
    except InvalidArgument as error:
        raise InvalidArgument(f"output_format.{error.field}", error.message) from None
