"""The ensemble's inputs → a `SpeechRequest`."""

from __future__ import annotations

from typing import Any

import numpy as np

from misotts.config import ModelConfig
from misotts.prompt.limits import check_context_size
from misotts.serve.stage.tensors import array, scalar, strings
from misotts_client.errors import InvalidArgument
from misotts_client.request import Segment, SpeechRequest


def read_request(request: Any, config: ModelConfig) -> SpeechRequest:
    """Read the contract's tensors; but for the context's size, the limits are held against them later, by
    `misotts.prompt.limits`.

    Raises:
        InvalidArgument: a text is not UTF-8, or the context is too large or its tensors do not fit each other.
    """
    (text,) = strings(request, "TEXT") or [""]
    voice = strings(request, "VOICE")
    return SpeechRequest(
        text=text,
        speaker=scalar(request, "SPEAKER"),
        voice=voice[0] if voice else None,
        context=_read_context(request, config),
        temperature=scalar(request, "TEMPERATURE"),
        top_k=scalar(request, "TOP_K"),
        seed=scalar(request, "SEED"),
        max_audio_ms=scalar(request, "MAX_AUDIO_MS"),
        chunk_frames=scalar(request, "CHUNK_FRAMES"),
        timeout_ms=scalar(request, "TIMEOUT_MS"),
    )


def _read_context(request: Any, config: ModelConfig) -> list[Segment]:
    arrays = {name: array(request, name) for name in ("CONTEXT_SPEAKER", "CONTEXT_SAMPLES", "CONTEXT_AUDIO")}
    sizes = {name: 0 if value is None else value.size for name, value in arrays.items()}
    check_context_size(sizes["CONTEXT_SAMPLES"], sizes["CONTEXT_AUDIO"], config)  # before it is decoded and copied
    texts = strings(request, "CONTEXT_TEXT")
    if texts is None and all(value is None for value in arrays.values()):
        return []
    for name, value in {"CONTEXT_TEXT": texts, **arrays}.items():
        if value is None:
            raise InvalidArgument(name, "must come with the other context inputs, it was left out")
    speakers, samples, audio = (np.asarray(value).reshape(-1) for value in arrays.values())
    count, total = len(texts or []), int(samples.astype(np.int64).sum())
    for name, value in (("CONTEXT_SPEAKER", speakers), ("CONTEXT_SAMPLES", samples)):
        if len(value) != count:
            raise InvalidArgument(name, f"must have one element per text, {count}, got {len(value)}")
    if samples.min(initial=1) < 1:
        raise InvalidArgument("CONTEXT_SAMPLES", f"must be at least 1 for every segment, got {samples.min()}")
    if total != len(audio):
        raise InvalidArgument("CONTEXT_AUDIO", f"must be the sum of CONTEXT_SAMPLES long, {total}, got {len(audio)}")
    if not count:  # they were sent, and hold nothing
        return []
    clips = np.split(audio.copy(), np.cumsum(samples.astype(np.int64))[:-1])
    return [Segment(*row) for row in zip(texts or [], speakers.tolist(), clips, strict=True)]
