"""The contract of the Triton model `misotts`: one table of its tensors, and every check that needs no model.

The server's prompt stage, the clients and docs/contract.md read this table.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
MAX_TEXT = 4_000
"""Code points of the longest text."""
VOICE_NAME = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Field:
    """One tensor, and one attribute of `SpeechRequest` of the same name in lower case where it is an input of size 1.

    Attributes:
        datatype: type of its elements in Triton's protocol; BYTES is text in UTF-8.
        meaning: for the documentation.
        size: number of its elements: `1`, `n` (one for every segment of the context) or `m` (samples).
        low, high: limits of a number, both inclusive; infinite where there is none or it depends on the model.
        default: value of an input that is left out; None: see `meaning`.
        limits: limits that are not two numbers, in words.
    """

    datatype: str
    meaning: str
    size: str = "1"
    low: float = -math.inf
    high: float = math.inf
    default: Any = None
    limits: str = ""

    @property
    def default_text(self) -> str:
        """The default in words; empty if there is none."""
        return "" if self.default is None else f"{self.default:g}"

    @property
    def range(self) -> str:
        """The limits in words."""
        return self.limits or f"{self.low:g} to {self.high:.10g}"


INPUTS: Mapping[str, Field] = {
    "TEXT": Field(
        datatype="BYTES",
        limits=f"1 to {MAX_TEXT} code points, not only spaces",
        meaning="text to speak, in UTF-8; required",
    ),
    "SPEAKER": Field(datatype="INT32", low=0, high=99, default=0, meaning="number of the speaker"),
    "VOICE": Field(
        datatype="BYTES", limits=f"`{VOICE_NAME.pattern}`", meaning="name of a registered voice; none if left out"
    ),
    "CONTEXT_TEXT": Field(
        datatype="BYTES",
        size="n",
        limits="each like TEXT; n is at most half the context length (MisoTTS: 1024)",
        meaning="texts of earlier segments, oldest first; the four CONTEXT inputs come together or not at all",
    ),
    "CONTEXT_SPEAKER": Field(datatype="INT32", size="n", low=0, high=99, meaning="speaker of each segment"),
    "CONTEXT_SAMPLES": Field(
        datatype="INT32", size="n", low=1, limits="at least 1", meaning="number of samples of each segment"
    ),
    "CONTEXT_AUDIO": Field(
        datatype="FP32",
        size="m",
        limits="finite; m is the sum of CONTEXT_SAMPLES, at most context length x 1920",
        meaning="audio of the segments end to end, 24 kHz mono, -1..1",
    ),
    "TEMPERATURE": Field(
        datatype="FP32", low=0, high=2, default=0.9, meaning="temperature of the sampling; 0 is greedy"
    ),
    "TOP_K": Field(
        datatype="INT32",
        low=1,
        default=50,
        limits="1 to the number of audio codes (MisoTTS: 2048)",
        meaning="number of the most likely codes to sample from",
    ),
    "SEED": Field(
        datatype="INT64",
        low=-(2**63),
        high=2**63 - 1,
        limits="any int64",
        meaning="the same seed makes the same utterance again; fresh for every request if left out",
    ),
    "MAX_AUDIO_MS": Field(
        datatype="INT32",
        low=FRAME_MS,
        high=160_000,
        default=90_000,
        meaning="longest audio in ms, rounded down to frames of 80 ms; the default is shortened to what fits beside "
        "the prompt",
    ),
    "CHUNK_FRAMES": Field(
        datatype="INT32",
        low=0,
        high=MAX_CHUNK_FRAMES,
        default=0,
        meaning="frames of 80 ms in every chunk; 0: the smallest first chunk with audio, then chunks as large as the "
        "audio that the caller has left to play allows",
    ),
    "TIMEOUT_MS": Field(
        datatype="INT32",
        low=0,
        high=2**31 - 1,
        default=0,
        meaning="longest time in ms from the arrival of the request to its last chunk; 0: no limit",
    ),
}

OUTPUTS: Mapping[str, Field] = {
    "AUDIO": Field(
        datatype="FP32",
        size="m",
        meaning="24 kHz mono, watermarked, -1..1; the chunks end to end are the utterance; may be empty in the last "
        "response",
    ),
    "FRAME": Field(datatype="INT32", meaning="the first sample of the chunk is number FRAME x 1920 of the utterance"),
    "SEED_USED": Field(datatype="INT64", meaning="the seed in use; sent as SEED, it makes the same utterance again"),
    "FINISH": Field(datatype="BYTES", meaning="empty; in the last response `eos`, `length` or `error: CODE: message`"),
}

SCALARS = [name for name, field in INPUTS.items() if field.size == "1"]
"""Inputs of one element; `SpeechRequest` has an attribute for each."""


def value(request: SpeechRequest, name: str) -> Any:
    """Return what a request says for the input `name`, or the input's default."""
    given = getattr(request, name.lower())
    return INPUTS[name].default if given is None else given


def check_request(request: SpeechRequest, audio_codes: int) -> None:
    """Check every field of a request, except for the size of its context: see `check_context_size`.

    Args:
        audio_codes: number of codes of the model that can be sampled.

    Raises:
        InvalidArgument: names the field, the limit and the value.
    """
    _check_text("TEXT", request.text)
    if request.voice is not None:
        check_voice_name(request.voice)
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
    """Refuse what is not the name of a voice; an accepted name is a plain file name, whatever is appended to it.

    Raises:
        InvalidArgument: `name` does not match `VOICE_NAME`.
    """
    if not VOICE_NAME.fullmatch(name):
        raise InvalidArgument("VOICE", f"must match {VOICE_NAME.pattern}, got {name[:80]!r}")


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
