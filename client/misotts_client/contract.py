"""The contract of the Triton model `misotts`: one table of its tensors, and every check that needs no model.

The server's prompt stage, the clients and docs/contract.md read this table.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from misotts_client.errors import InvalidArgument
from misotts_client.request import SpeechRequest

MODEL_NAME = "misotts"

SAMPLE_RATE = 24_000
"""Samples per second of all audio, in and out."""
FRAME_SAMPLES = 1_920
"""Samples in one frame."""
FRAME_MS = 80
MAX_CHUNK_FRAMES = 25
"""Frames of the largest chunk."""
LONGEST_DEFAULT_MS = 90_000
"""Longest audio of a request without MAX_AUDIO_MS, in ms."""
MAX_TEXT = 4_000
"""Code points of the longest text."""
VOICE_NAME = re.compile(r"[a-z0-9_-]{1,64}")
SESSION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Field:
    """One tensor.

    Attributes:
        datatype: type of its elements in Triton's protocol; BYTES is text in UTF-8.
        meaning: one line for the documentation and help texts.
        limits: limits that are not two numbers, in words.
        size: number of its elements: `1`, `n` (one for every segment of the context) or `m` (samples).
        low, high: limits of a number, both inclusive; infinite if there is none or it depends on the model.
        default: value of an input that is left out; None: see `meaning`.
        model_default: True if a model folder may state a default of its own, which then counts.
    """

    datatype: str
    meaning: str
    limits: str = ""
    size: str = "1"
    low: float = -math.inf
    high: float = math.inf
    default: Any = None
    model_default: bool = False

    @property
    def default_text(self) -> str:
        """The default in words; empty if there is none."""
        if self.default is None:
            return ""
        return f"the model folder's own, else {self.default:g}" if self.model_default else f"{self.default:g}"

    @property
    def range(self) -> str:
        """The limits in words."""
        return self.limits or f"{self.low:g} to {self.high:.10g}"


INPUTS: Mapping[str, Field] = {
    "TEXT": Field(
        "BYTES",
        "text to speak, in UTF-8; required",
        f"1 to {MAX_TEXT} code points, not only spaces; may be empty with SESSION_END",
    ),
    "SPEAKER": Field("INT32", "number of the speaker", low=0, high=99, default=0),
    "VOICE": Field("BYTES", "name of a registered voice; none if left out", f"`{VOICE_NAME.pattern}`"),
    "CONTEXT_TEXT": Field(
        "BYTES",
        "texts of earlier segments, oldest first; the four CONTEXT inputs come together or not at all",
        "each like TEXT; n is at most half the context length (MisoTTS: 1024)",
        size="n",
    ),
    "CONTEXT_SPEAKER": Field("INT32", "speaker of each segment", size="n", low=0, high=99),
    "CONTEXT_SAMPLES": Field("INT32", "number of samples of each segment", "at least 1", size="n", low=1),
    "CONTEXT_AUDIO": Field(
        "FP32",
        "audio of the segments end to end, 24 kHz mono, -1..1",
        "finite; m is the sum of CONTEXT_SAMPLES, at most context length x 1920",
        size="m",
    ),
    "TEMPERATURE": Field(
        "FP32", "temperature of the sampling; 0 is greedy", low=0, high=2, default=0.9, model_default=True
    ),
    "TOP_K": Field(
        "INT32",
        "number of the most likely codes to sample from",
        "1 to the number of audio codes (MisoTTS: 2048)",
        low=1,
        default=50,
        model_default=True,
    ),
    "SEED": Field(
        "INT64",
        "the same seed makes the same utterance again; fresh for every request if left out",
        "any int64",
        low=-(2**63),
        high=2**63 - 1,
    ),
    "MAX_AUDIO_MS": Field(
        "INT32",
        "longest audio in ms, rounded down to frames of 80 ms; if left out, the server's `--max-audio`: 3 s and 1.2 s "
        f"for each word of TEXT, from 6 s to {LONGEST_DEFAULT_MS // 1000} s, less if the prompt leaves fewer positions",
        low=FRAME_MS,
        high=160_000,
    ),
    "CHUNK_FRAMES": Field(
        "INT32",
        "frames of 80 ms in every chunk; 0: the server chooses, from the smallest first chunk with audio to larger "
        "ones while the caller has audio left to play",
        low=0,
        high=MAX_CHUNK_FRAMES,
        default=0,
    ),
    "LEAD_MS": Field(
        "INT32",
        "how far generation may be ahead of playback, in ms, while nothing waits for a slot, at least 1 s and one "
        "chunk; 0: as far as capacity that listeners leave allows; if left out, the server's `--lead-seconds`",
        low=0,
        high=160_000,
    ),
    "TIMEOUT_MS": Field(
        "INT32",
        "longest time in ms from the arrival of the request to its last chunk; 0: no limit",
        low=0,
        high=2**31 - 1,
        default=0,
    ),
    "SESSION": Field(
        "BYTES",
        "name of the conversation that this utterance continues or begins; none if left out",
        f"`{SESSION_NAME.pattern}`",
    ),
    "SESSION_HEARD_MS": Field(
        "INT32",
        "how much of the conversation's last utterance the listener has heard, in ms, rounded down to frames of 80 ms; "
        "the rest is forgotten; if left out, all that was delivered",
        low=0,
        high=160_000,
    ),
    "SESSION_END": Field(
        "INT32",
        "1: the conversation is forgotten when this utterance ends, or at once if TEXT is empty",
        low=0,
        high=1,
        default=0,
    ),
}
"""A new parameter is one row here and one attribute of `SpeechRequest`: docs/architecture.md lists the other places."""

OUTPUTS: Mapping[str, Field] = {
    "AUDIO": Field(
        "FP32",
        "24 kHz mono, watermarked, -1..1; the chunks end to end are the utterance; may be empty in the last response",
        size="m",
    ),
    "FRAME": Field("INT32", "the first sample of the chunk is number FRAME x 1920 of the utterance"),
    "SEED_USED": Field("INT64", "the seed in use; sent as SEED, it makes the same utterance again"),
    "SESSION_TURNS": Field(
        "INT32",
        "turns of the conversation that the prompt of this utterance contains; 0 without SESSION and where the server "
        "knows none",
    ),
    "FINISH": Field("BYTES", "empty; in the last response `eos`, `length` or `error: CODE: message`"),
}

SCALARS = [name for name, field in INPUTS.items() if field.size == "1"]
"""Inputs of one element; `SpeechRequest` has an attribute for each."""


def value(request: SpeechRequest, name: str, model: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Return the value that a request has for the input `name`, or the model's default, or the contract's.

    Args:
        model: the model's own defaults by name in lower case.
    """
    given = getattr(request, name.lower())
    return model.get(name.lower(), INPUTS[name].default) if given is None else given


def check_request(request: SpeechRequest, audio_codes: int) -> None:
    """Check every field of a request, except for the size of its context: see `check_context_size`.

    Args:
        audio_codes: number of codes of the model that can be sampled.

    Raises:
        InvalidArgument: names the field, the limit and the value.
    """
    if request.text or not request.session_end:
        _check_text("TEXT", request.text)
    if request.voice is not None:
        check_voice_name(request.voice)
    _check_session(request)
    for name in SCALARS:
        given = getattr(request, name.lower())
        if given is not None and INPUTS[name].datatype != "BYTES":
            _check_number(name, given, audio_codes if name == "TOP_K" else INPUTS[name].high)
    for segment in request.context:
        _check_text("CONTEXT_TEXT", segment.text)
        _check_number("CONTEXT_SPEAKER", segment.speaker, INPUTS["CONTEXT_SPEAKER"].high)
        if not len(segment.audio):
            raise InvalidArgument("CONTEXT_SAMPLES", "must be at least 1 for every segment, got 0")
        if not np.isfinite(segment.audio).all():
            raise InvalidArgument("CONTEXT_AUDIO", "must be finite, got NaN or infinity")


def check_context_size(segments: int, samples: int, positions: int) -> None:
    """Refuse a context that no prompt can hold, before it is copied or decoded.

    Args:
        segments: number of segments.
        samples: number of samples of all segments together.
        positions: context length of the model.

    Raises:
        InvalidArgument: names the field, the limit and the value.
    """
    if segments > positions // 2:  # a segment takes at least one frame of audio and the frame of zeros
        raise InvalidArgument("CONTEXT_TEXT", f"must be at most {positions // 2} segments, got {segments}")
    if samples > positions * FRAME_SAMPLES:
        raise InvalidArgument(
            "CONTEXT_AUDIO", f"must be at most {positions * FRAME_SAMPLES} samples in all, got {samples}"
        )


def check_voice_name(name: str) -> None:
    """Refuse what is not the name of a voice; an accepted name is a plain file name, with any suffix.

    Raises:
        InvalidArgument: `name` does not match `VOICE_NAME`.
    """
    if not VOICE_NAME.fullmatch(name):
        raise InvalidArgument("VOICE", f"must match {VOICE_NAME.pattern}, got {name[:80]!r}")


def _check_session(request: SpeechRequest) -> None:
    if request.session is not None:
        if not SESSION_NAME.fullmatch(request.session):
            raise InvalidArgument("SESSION", f"must match {SESSION_NAME.pattern}, got {request.session[:80]!r}")
    elif request.session_heard_ms is not None or request.session_end:
        field = "SESSION_END" if request.session_end else "SESSION_HEARD_MS"
        raise InvalidArgument(field, "must come with SESSION, which was left out")


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which only callers of the library can send
        raise InvalidArgument(name, f"cannot be UTF-8: {error.reason} at code point {error.start}") from None
    if not text.strip():
        raise InvalidArgument(name, "must not be " + ("only spaces" if text else "empty"))
    if len(text) > MAX_TEXT:
        raise InvalidArgument(name, f"must be at most {MAX_TEXT} code points, got {len(text)}")


def _check_number(name: str, number: float, high: float) -> None:
    low = INPUTS[name].low
    if not (math.isfinite(number) and low <= number <= high):
        raise InvalidArgument(name, f"must be {_shown(low)} to {_shown(high)}, got {_shown(number)}")


def _shown(number: float) -> str:
    """Return a number in full if it is an int: 1600001 is not 1.6e+06."""
    return str(number) if isinstance(number, int) else f"{number:g}"
