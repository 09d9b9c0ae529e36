"""The JSON body of `POST /v1/audio/speech`, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from misotts_client.errors import InvalidArgument
from misotts_gateway.audio.formats import FORMATS, Format
from misotts_gateway.json_fields import Fields, Read, read_number, read_text, shown, whole
from misotts_gateway.text.plan import TextSettings
from misotts_gateway.text.sentences import is_speakable


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


def read_body_fields(content: Mapping[str, Any], settings: TextSettings) -> SpeechBody:
    """Return the body in the fields of a JSON object. A field that is null counts as left out.

    Raises:
        InvalidArgument: names the field as the caller wrote it, the limit and what came.
    """
    read = Fields(content)
    read.take("model", "tts-1", read_text)
    text = read.required("input", read_text)
    _check_text(text, settings.max_input)
    format_name = read.one_of("response_format", "mp3", FORMATS)
    format = FORMATS[format_name]
    if format.extra:
        raise InvalidArgument(
            "response_format", f"{format_name} needs misotts-gateway[{format.extra}], which is not installed here"
        )
    speed = read.take("speed", 1, read_number)
    if speed != 1:
        raise InvalidArgument("speed", f"must be 1, the model has no other; got {shown(speed)}")
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
        max_audio_ms=read.take("max_audio_ms", None, whole(80, 2**31 - 1)),
        sampling={name: read.required(name, kind) for name, kind in _SAMPLING.items() if name in read.given},
        ignored=tuple(sorted(read.given.keys() - read.taken)),
    )


def _voice(name: str, value: Any) -> str:
    """Return the name of a voice, given as text or as `{"id": name}`."""
    return read_text(name, value.get("id") if isinstance(value, dict) else value)


def _check_text(text: str, max_input: int) -> None:
    if len(text) > max_input:
        raise InvalidArgument("input", f"must be at most {max_input} code points, got {len(text)}")
    if not is_speakable(text):
        raise InvalidArgument("input", "must have a letter or a digit, " + ("it has none" if text else "it is empty"))


_SAMPLING: Mapping[str, Read] = {
    "seed": whole(-(2**63), 2**63 - 1),
    "temperature": read_number,
    "top_k": whole(0, 2**31 - 1),
    "lead_ms": whole(0, 2**31 - 1),
    "session": read_text,
}
"""Fields that go to the model as they are; the contract has their limits."""
