"""A request for speech."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Segment:
    """An earlier part of the conversation: its text, its speaker and its audio.

    Attributes:
        text: the words of the clip.
        speaker: 0 to 99.
        audio: [samples] float32, 24 kHz mono, -1..1.
    """

    text: str
    speaker: int
    audio: npt.NDArray[np.float32]


@dataclass(frozen=True)
class SpeechRequest:
    """The text to speak, and its voice and parameters. `misotts_client.contract.INPUTS` has the meaning, limits and
    default of every field except `context`, under its name in capitals. The server uses its default for None.

    Attributes:
        context: earlier segments, oldest first.
    """

    text: str
    speaker: int | None = None
    voice: str | None = None
    context: Sequence[Segment] = ()
    temperature: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_audio_ms: int | None = None
    chunk_frames: int | None = None
    lead_ms: int | None = None
    timeout_ms: int | None = None
    session: str | None = None
    session_heard_ms: int | None = None
    session_end: int | None = None


def hurried(request: SpeechRequest) -> SpeechRequest:
    """Return a request of a caller that wants the whole utterance as soon as possible: its LEAD_MS is 0 unless it has
    one."""
    return replace(request, lead_ms=0) if request.lead_ms is None else request


def as_request(request: SpeechRequest | str, fields: dict[str, Any]) -> SpeechRequest:
    """Return a text or a request with the named fields set.

    Raises:
        TypeError: a field that `SpeechRequest` does not have.
    """
    return SpeechRequest(request, **fields) if isinstance(request, str) else replace(request, **fields)
