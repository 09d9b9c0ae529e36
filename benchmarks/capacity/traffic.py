"""The number of callers, how much they hear, and when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.plan import Load

HOURS = 24
MS_PER_CHAR = 70.0
"""Length of speech for a code point: about 14 a second."""

EVENING = (15, 10, 8, 6, 5, 6, 10, 20, 30, 35, 38, 40, 42, 42, 42, 45, 50, 62, 80, 95, 100, 90, 60, 30)
"""Per cent of the peak in each hour from midnight; an assumption with its peak at 20:00."""


@dataclass(frozen=True)
class Traffic:
    """Callers of voice agents, each of which hears an utterance, speaks or thinks, and hears the next one."""

    callers: int
    """Number of simultaneous callers at the peak."""
    talk_share: float
    """Share of a call in which the caller hears speech."""
    utterance_s: float
    """Median length of an utterance; lengths are log-normal with the spread of `misotts bench load`."""
    day: tuple[float, ...] = EVENING
    """Per cent of the peak in each of 24 hours."""

    @property
    def mean_utterance_s(self) -> float:
        return self.load(1.0, 1.0, 0).mean_audio_s

    @property
    def peak_streams(self) -> float:
        """Mean number of streams in the busiest hour."""
        return self.callers * self.talk_share * max(self.day) / 100

    @property
    def peak_rate(self) -> float:
        """Utterances that begin in a second of the busiest hour. Many independent callers are Poisson arrivals."""
        return self.peak_streams / self.mean_utterance_s

    @property
    def audio_hours_a_day(self) -> float:
        return self.callers * self.talk_share * sum(self.day) / 100

    def load(self, rate: float, seconds: float, seed: int, chunk_frames: int = 0) -> Load:
        """Return calls of this kind at another rate."""
        return Load(
            rate=rate,
            seconds=seconds,
            chars=max(round(self.utterance_s * 1000 / MS_PER_CHAR), 1),
            max_ms_per_char=MS_PER_CHAR,
            voices=("voice",),
            voice_share=1.0,
            chunk_frames=chunk_frames,
            lead_ms=None,
            seed=seed,
        )


def read_day(path: Path) -> tuple[float, ...]:
    """Read a JSON list of 24 numbers, calls in each hour from midnight in any unit → per cent of the peak.

    Raises:
        ValueError: the file holds no such list.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    numbers = isinstance(values, list) and all(isinstance(v, (int, float)) and v >= 0 for v in values)
    if not numbers or len(values) != HOURS or not max(values):
        raise ValueError(f"{path} must be a list of {HOURS} numbers of 0 or more, and not all 0")
    return tuple(100 * value / max(values) for value in values)
