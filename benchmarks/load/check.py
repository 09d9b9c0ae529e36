"""A check that an answer is what was asked for: a wrong answer must not count as a fast one."""

from __future__ import annotations

import numpy as np

from misotts.config import FRAME_MS, FRAME_SAMPLES
from misotts_client import Chunk, SpeechRequest

SILENCE = 1e-3
"""Root mean square below which an utterance counts as silent: -60 dB of full scale."""


class AnswerCheck:
    """Judges the chunks of one call as they arrive.

    Attributes:
        samples: number of samples so far.
        fault: kind of the first fault, in capitals like the errors' codes; empty if there is none.
    """

    def __init__(self, request: SpeechRequest) -> None:
        self._request = request
        self._energy = 0.0
        self._finish = ""
        self.samples = 0
        self.fault = ""

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        energy = float(np.dot(chunk.audio, chunk.audio))
        if chunk.frame * FRAME_SAMPLES != self.samples:
            self._fail("WRONG_FRAME")
        if not np.isfinite(energy) or np.abs(chunk.audio).max(initial=0.0) > 1:
            self._fail("NOT_AUDIO")
        if chunk.seed != self._request.seed:
            self._fail("WRONG_SEED")
        self.samples += len(chunk.audio)
        self._energy += energy
        self._finish = chunk.finish

    def end(self) -> None:
        """Judge the whole answer, once the server has ended the stream."""
        limit = (self._request.max_audio_ms or 0) // FRAME_MS * FRAME_SAMPLES
        whole = self.samples == limit if self._finish == "length" else 0 < self.samples <= limit
        if not whole or self.samples % FRAME_SAMPLES:
            self._fail("WRONG_LENGTH")
        elif self._energy < SILENCE**2 * self.samples:
            self._fail("SILENT")

    def _fail(self, kind: str) -> None:
        self.fault = self.fault or kind
