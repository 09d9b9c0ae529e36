"""Whether what came is what was asked for: a wrong answer must not pass for a fast one."""

from __future__ import annotations

import numpy as np

from misotts.config import FRAME_MS, FRAME_SAMPLES
from misotts_client import Chunk, SpeechRequest

SILENCE = 1e-3
"""Root mean square below which an utterance counts as silent: -60 dB of full scale."""


class Heard:
    """The chunks of one call, judged as they come.

    Attributes:
        samples: how many have come.
        fault: kind of the first thing that was wrong, in capitals like the errors' codes; empty while all is well.
    """

    def __init__(self, request: SpeechRequest) -> None:
        self._request = request
        self._energy = 0.0
        self._finish = ""
        self.samples = 0
        self.fault = ""

    def add(self, chunk: Chunk) -> None:
        """Takes the next chunk."""
        energy = float(np.dot(chunk.audio, chunk.audio))
        if chunk.frame * FRAME_SAMPLES != self.samples:
            self._wrong("WRONG_FRAME")
        if not np.isfinite(energy) or np.abs(chunk.audio).max(initial=0.0) > 1:
            self._wrong("NOT_AUDIO")
        if chunk.seed != self._request.seed:
            self._wrong("WRONG_SEED")
        self.samples += len(chunk.audio)
        self._energy += energy
        self._finish = chunk.finish

    def end(self) -> None:
        """To be called when the stream has ended by itself."""
        limit = (self._request.max_audio_ms or 0) // FRAME_MS * FRAME_SAMPLES
        whole = self.samples == limit if self._finish == "length" else 0 < self.samples <= limit
        if not whole or self.samples % FRAME_SAMPLES:
            self._wrong("WRONG_LENGTH")
        elif self._energy < SILENCE**2 * self.samples:
            self._wrong("SILENT")

    def _wrong(self, kind: str) -> None:
        self.fault = self.fault or kind
