"""What a request may ask for, and the error that it gets otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from misotts.config import FRAME_MS, FRAME_SAMPLES, MAX_CHUNK_FRAMES, ModelConfig
from misotts_client.errors import InvalidArgument
from misotts_client.request import Segment, SpeechRequest

MAX_TEXT = 4_000
"""Code points."""
MAX_SPEAKER = 99
MAX_TEMPERATURE = 2.0
MIN_AUDIO_MS, MAX_AUDIO_MS = FRAME_MS, 160_000
DEFAULT_AUDIO_MS = 90_000
DEFAULT_TEMPERATURE = 0.9
DEFAULT_TOP_K = 50


def check_context_size(segments: int, samples: int, config: ModelConfig) -> None:
    """Hold a context against what a prompt can hold at all; a stage does it before it copies anything.

    Args:
        samples: of all segments' audio together.

    Raises:
        InvalidArgument: names the field, the limit and what came.
    """
    limit = config.max_seq_len // 2  # a clip of one frame and the frame after it
    if segments > limit:
        raise InvalidArgument("CONTEXT_TEXT", f"must be at most {limit} segments, got {segments}")
    limit = config.max_seq_len * FRAME_SAMPLES
    if samples > limit:
        raise InvalidArgument("CONTEXT_AUDIO", f"must be at most {limit} samples in all, got {samples}")


def check_request(request: SpeechRequest, config: ModelConfig) -> None:
    """Hold every field of a request against its limits.

    Raises:
        InvalidArgument: names the field, the limit and what came.
    """
    _check_text("TEXT", request.text)
    _check_range("SPEAKER", request.speaker, 0, MAX_SPEAKER)
    _check_range("TEMPERATURE", request.temperature, 0, MAX_TEMPERATURE)
    _check_range("TOP_K", request.top_k, 1, config.audio_codes)
    _check_range("SEED", request.seed, -(2**63), 2**63 - 1)
    _check_range("MAX_AUDIO_MS", request.max_audio_ms, MIN_AUDIO_MS, MAX_AUDIO_MS)
    _check_range("CHUNK_FRAMES", request.chunk_frames, 0, MAX_CHUNK_FRAMES)
    _check_range("TIMEOUT_MS", request.timeout_ms, 0, 2**31 - 1)
    _check_context(request.context, config)


def _check_text(field: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which the library's callers can send
        raise InvalidArgument(field, f"cannot be UTF-8: {error.reason} at code point {error.start}") from None
    if not text.strip():
        raise InvalidArgument(field, "must say something, got " + ("only spaces" if text else "an empty text"))
    if len(text) > MAX_TEXT:
        raise InvalidArgument(field, f"must be at most {MAX_TEXT} code points, got {len(text)}")


def _check_range(field: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise InvalidArgument(field, f"must be {_shown(low)} to {_shown(high)}, got {_shown(value)}")


def _shown(value: float) -> str:
    """An int in full: 1600001 is not 1.6e+06."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _check_context(context: Sequence[Segment], config: ModelConfig) -> None:
    check_context_size(len(context), sum(len(segment.audio) for segment in context), config)
    for segment in context:
        _check_text("CONTEXT_TEXT", segment.text)
        _check_range("CONTEXT_SPEAKER", segment.speaker, 0, MAX_SPEAKER)
        if not len(segment.audio):
            raise InvalidArgument("CONTEXT_SAMPLES", "must be at least 1 for every segment, got 0")
        if not np.isfinite(segment.audio).all():
            raise InvalidArgument("CONTEXT_AUDIO", "must be finite, got NaN or infinity")
