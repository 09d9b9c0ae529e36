"""The JSON body of `POST /v1/audio/speech`, checked."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from misotts_client.errors import InvalidArgument
from misotts_client.request import SpeechRequest
from misotts_gateway.audio.formats import FORMATS, Format
from misotts_gateway.text.plan import TextSettings
from misotts_gateway.text.sentences import is_speakable

_LARGEST = 1e300
"""JSON has numbers that no float can hold; those beyond this are refused before anything counts with them."""
_SERVED_FIELDS = {each.name for each in fields(SpeechRequest)} - {"text", "context"}


@dataclass(frozen=True, kw_only=True)
class SpeechBody:
    """A checked body.

    Attributes:
        text: to speak; SSML if `ssml`.
        voice: as the caller names it; None: the model's own.
        format: what to encode, at `rate` Hz; `format_name` is its name in the API.
        events: True for server-sent events, False for raw audio.
        normalize: True to write numbers as words.
        max_audio_ms: longest answer; None: as long as the text needs.
        sampling: further fields of every `SpeechRequest`.
        ignored: names of fields that have no effect here.
    """

    text: str
    ssml: bool
    voice: str | None
    format: Format
    format_name: str
    rate: int
    events: bool
    normalize: bool
    max_audio_ms: int | None
    sampling: Mapping[str, Any]
    ignored: tuple[str, ...] = field(default=())


def read_json(raw: bytes) -> dict[str, Any]:
    """Return the object in a JSON text.

    Raises:
        InvalidArgument: it is not an object in JSON and UTF-8, or it nests too deep.
    """
    try:
        content = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidArgument(None, f"the body must be UTF-8, byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            None, f"the body must be JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from None
    except (RecursionError, ValueError) as error:  # brackets 1,000 deep; a number of 4,300 digits
        raise InvalidArgument(None, f"the body must be JSON that can be read: {error}") from None
    if not isinstance(content, dict):
        raise InvalidArgument(None, f"the body must be a JSON object, it is {_kind(content)}")
    return content


def read_body_fields(content: Mapping[str, Any], settings: TextSettings) -> SpeechBody:
    """Return the body in the fields of a JSON object. A field that is null counts as left out.

    Raises:
        InvalidArgument: names the field as the caller wrote it, the limit and what came.
    """
    given = {name: value for name, value in content.items() if value is not None}
    read = _Fields(given)
    read.take("model", "tts-1", _text)
    text = read.required("input", _text)
    _check_text(text, settings.max_input)
    format_name = read.one_of("response_format", "mp3", FORMATS)
    format = FORMATS[format_name]
    if format.extra:
        raise InvalidArgument(
            "response_format", f"{format_name} needs misotts-gateway[{format.extra}], which is not installed here"
        )
    speed = read.take("speed", 1, _number)
    if speed != 1:
        raise InvalidArgument("speed", f"must be 1, the model has no other; got {_shown(speed)}")
    normalize = read.one_of("apply_text_normalization", "on" if settings.normalize else "off", ("on", "off", "auto"))
    if normalize == "on" and settings.normalizer is None:
        raise InvalidArgument("apply_text_normalization", "must be off, this server has no normaliser")
    return SpeechBody(
        text=text,
        ssml=read.one_of("input_type", "text", ("text", "ssml")) == "ssml",
        voice=read.take("voice", None, _voice),
        format=format,
        format_name=format_name,
        rate=read.one_of("sample_rate", format.default_rate, format.rates),
        events=read.one_of("stream_format", "audio", ("audio", "sse")) == "sse",
        normalize=normalize == "on" or (normalize == "auto" and settings.normalizer is not None),
        max_audio_ms=read.take("max_audio_ms", None, lambda name, value: _whole(name, value, 80, 2**31 - 1)),
        sampling={
            name: read.required(name, kind)
            for name, kind in _SAMPLING.items()
            if name in given and name in _SERVED_FIELDS
        },
        ignored=tuple(sorted(given.keys() - read.taken)),
    )


class _Fields:
    """Reads fields and notes which of them were read."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.taken: set[str] = set()

    def take(self, name: str, default: Any, kind: Callable[[str, Any], Any]) -> Any:
        self.taken.add(name)
        return kind(name, self._given[name]) if name in self._given else default

    def required(self, name: str, kind: Callable[[str, Any], Any]) -> Any:
        if name not in self._given:
            raise InvalidArgument(name, "is required, it was left out")
        return self.take(name, None, kind)

    def one_of(self, name: str, default: Any, choices: Any) -> Any:
        value = self.take(name, default, lambda _, value: value)
        if isinstance(value, bool | list | dict) or value not in choices:
            raise InvalidArgument(name, f"must be one of {', '.join(map(str, choices))}, got {_shown(value)}")
        return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(name, f"must be text, got {_kind(value)}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(name, f"must be a number, got {_kind(value)}")
    if not -_LARGEST < value < _LARGEST:
        raise InvalidArgument(name, f"must be between {-_LARGEST:g} and {_LARGEST:g}, got {_shown(value)}")
    return value


def _whole(name: str, value: Any, low: int, high: int) -> int:
    number = _number(name, value)
    if number != number // 1 or not low <= number <= high:
        raise InvalidArgument(name, f"must be a whole number of {low} to {high}, got {_shown(value)}")
    return int(number)


def _voice(name: str, value: Any) -> str:
    """Return the name of a voice, given as text or as `{"id": name}`."""
    return _text(name, value.get("id") if isinstance(value, dict) else value)


def _check_text(text: str, max_input: int) -> None:
    if len(text) > max_input:
        raise InvalidArgument("input", f"must be at most {max_input} code points, got {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument("input", f"cannot be UTF-8: {error.reason} at code point {error.start}") from None
    if not is_speakable(text):
        raise InvalidArgument("input", "must have a letter or a digit, " + ("it has none" if text else "it is empty"))


def _int64(name: str, value: Any) -> int:
    return _whole(name, value, -(2**63), 2**63 - 1)


def _int32(name: str, value: Any) -> int:
    return _whole(name, value, 0, 2**31 - 1)


_SAMPLING: Mapping[str, Callable[[str, Any], Any]] = {
    "seed": _int64,
    "temperature": _number,
    "top_k": _int32,
    "lead_ms": _int32,
    "session": _text,
}
"""Fields that go to the model as they are; the contract has their limits."""


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def _shown(value: Any) -> str:
    return repr(value)[:80] if isinstance(value, str | int | float) else _kind(value)
