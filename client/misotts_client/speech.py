"""A whole utterance with its timings, and the recording that gathers it from chunks."""

import math
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from misotts_client.chunk import SAMPLE_RATE, Chunk


@dataclass(frozen=True, eq=False)
class Speech:
    """An utterance.

    Attributes:
        audio: [samples] float32, 24 kHz mono, -1..1.
        seed: the seed in use, with which the utterance can be made again.
        finish: `eos` (the speech ended by itself), `length` (it was cut), or empty if its end never came.
        ttfa_s: time to first audio in s: from just before the request is sent to the arrival of the first chunk that
            has samples; None if there was none.
        total_s: from just before the request is sent to the arrival of the last chunk, in s.
    """

    audio: npt.NDArray[np.float32]
    seed: int | None
    finish: str
    ttfa_s: float | None
    total_s: float

    @property
    def audio_s(self) -> float:
        """Length of the audio in s."""
        return len(self.audio) / SAMPLE_RATE

    @property
    def rtf(self) -> float:
        """Real-time factor: total_s / audio_s; below 1 is faster than playing. Infinite without audio."""
        return self.total_s / self.audio_s if len(self.audio) else math.inf


class Recording:
    """Gathers the chunks of one utterance; made just before the request is sent, which is when its clock starts."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._chunks: list[Chunk] = []
        self._ttfa_s: float | None = None
        self._total_s = 0.0

    def add(self, chunk: Chunk) -> None:
        """Takes the chunk that has just arrived."""
        self._total_s = perf_counter() - self._started
        if self._ttfa_s is None and len(chunk.audio):
            self._ttfa_s = self._total_s
        self._chunks.append(chunk)

    def speech(self) -> Speech:
        """What has come so far."""
        return Speech(
            audio=np.concatenate([chunk.audio for chunk in self._chunks] or [np.zeros(0, np.float32)]),
            seed=self._chunks[-1].seed if self._chunks else None,
            finish=self._chunks[-1].finish if self._chunks else "",
            ttfa_s=self._ttfa_s,
            total_s=self._total_s,
        )
