"""Counts of the generate stage, for the metrics."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from misotts_client.errors import EOS, LENGTH, error_of

REASONS = (EOS, LENGTH, "cancelled", "deadline_exceeded", "invalid_argument", "unavailable", "internal")
"""Reasons for the end of an utterance: the first two are complete ones, the others error codes in lower case."""

KEPT_OBSERVATIONS = 4096


def _observations() -> dict[str, deque[float]]:
    return {name: deque(maxlen=KEPT_OBSERVATIONS) for name in ("step_seconds", "first_frame_seconds")}


@dataclass
class Statistics:
    """Counts since start, and measurements since they were last taken."""

    steps: int = 0
    frames: int = 0
    prefilled: int = 0
    """Positions computed for prompts, without those found in shared blocks."""
    busy_s: float = 0.0
    submitted: int = 0
    rejected: int = 0
    """Utterances refused on arrival: see `Core.submit`. All others are counted in `finished` when they end."""
    finished: Counter[str] = field(default_factory=Counter)
    """By reason: one of `REASONS`."""
    guarded: int = 0
    """Utterances cut at the length that their text allows: see `misotts.prompt.max_audio`."""
    observations: dict[str, deque[float]] = field(default_factory=_observations)

    def end(self, finish: str) -> None:
        """Count an utterance's end by its FINISH."""
        error = error_of(finish)
        self.finished[error.code.lower() if error else finish] += 1

    def spend(self, seconds: float) -> None:
        """Count the time of one pass of the loop."""
        self.busy_s += seconds
        self.observations["step_seconds"].append(seconds)

    def take_observations(self) -> dict[str, list[float]]:
        """Return the measurements since the last call, by name. Any thread may call it while the loop goes on: the ends
        of a deque need no lock."""
        return {name: [values.popleft() for _ in range(len(values))] for name, values in self.observations.items()}
