"""Speech as a client receives it: chunks, and the whole utterance with its timings."""

import math
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from misotts_client.contract import SAMPLE_RATE

AUDIBLE = 10 ** (-50 / 20)
"""The first sample beyond this, -50 dB of full scale, ends the leading silence."""


def leading_silence_s(audio: npt.NDArray[np.float32]) -> float | None:
    """Return the seconds before the first audible sample of [samples] at 24 kHz; None if there is none."""
    audible = np.abs(audio) > AUDIBLE
    return int(audible.argmax()) / SAMPLE_RATE if audible.any() else None


@dataclass(frozen=True, eq=False)
class Chunk:
    """A part of the audio of an utterance; the chunks end to end are the utterance.

    Attributes:
        audio: [samples] float32, 24 kHz mono, -1..1, watermarked; may be empty in the last chunk.
        frame: the first sample is number frame x 1920 of the utterance.
        seed: the seed in use, which makes the utterance again.
        finish: empty; in the last chunk why speech ended: `eos` (by itself) or `length` (it was cut).
        session_turns: turns of the conversation that the prompt contains: see SESSION_TURNS of the contract; None from
            a server that knows no conversations.
    """

    audio: npt.NDArray[np.float32]
    frame: int
    seed: int
    finish: str
    session_turns: int | None = None


@dataclass(frozen=True, eq=False)
class Speech:
    """A whole utterance.

    Attributes:
        audio: [samples] float32, 24 kHz mono, -1..1.
        seed: the seed in use; None if no chunk arrived.
        finish: `eos`, `length`, or empty if the end of speech did not arrive.
        session_turns: see `Chunk`; None if no chunk arrived.
        ttfa_s: time to first audio in s: from just before the request is sent to the arrival of the first chunk that
            has samples; None if there was none.
        total_s: from just before the request is sent to the arrival of the last chunk, in s.
    """

    audio: npt.NDArray[np.float32]
    seed: int | None
    finish: str
    ttfa_s: float | None
    total_s: float
    session_turns: int | None = None

    @property
    def audio_s(self) -> float:
        """Duration of the audio in s."""
        return len(self.audio) / SAMPLE_RATE

    @property
    def leading_silence_s(self) -> float | None:
        """Audio before the first audible sample (above -50 dB of full scale) in s; None if nothing is audible."""
        return leading_silence_s(self.audio)

    @property
    def audible_ttfa_s(self) -> float | None:
        """Time to the first audible sample in s, ttfa_s + leading_silence_s: when a player that begins with the first
        chunk plays that sample. It is an estimate where the silence is longer than the first chunk: it takes the chunks
        up to that sample to arrive before they are played. None if nothing is audible."""
        silence_s = self.leading_silence_s
        return None if self.ttfa_s is None or silence_s is None else self.ttfa_s + silence_s

    @property
    def rtf(self) -> float:
        """Real-time factor: total_s / audio_s; below 1 is faster than playback. Infinite without audio."""
        return self.total_s / self.audio_s if len(self.audio) else math.inf


class Recording:
    """Collects the chunks of one utterance. Construct it just before the request is sent: its clock starts then."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._chunks: list[Chunk] = []
        self._ttfa_s: float | None = None
        self._total_s = 0.0

    def add(self, chunk: Chunk) -> None:
        """Add the chunk that has just arrived."""
        self._total_s = perf_counter() - self._started
        if self._ttfa_s is None and len(chunk.audio):
            self._ttfa_s = self._total_s
        self._chunks.append(chunk)

    def speech(self) -> Speech:
        """Return what has arrived so far."""
        return Speech(
            audio=np.concatenate([chunk.audio for chunk in self._chunks] or [np.zeros(0, np.float32)]),
            seed=self._chunks[-1].seed if self._chunks else None,
            finish=self._chunks[-1].finish if self._chunks else "",
            ttfa_s=self._ttfa_s,
            total_s=self._total_s,
            session_turns=self._chunks[-1].session_turns if self._chunks else None,
        )
