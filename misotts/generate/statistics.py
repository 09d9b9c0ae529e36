"""What the generate stage counts, for the metrics."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from misotts_client.errors import EOS, LENGTH, error_of

REASONS = (EOS, LENGTH, "cancelled", "deadline_exceeded", "unavailable", "internal")
"""Why utterances end: the first two are whole ones, the others the lower-case codes of errors."""

KEPT_OBSERVATIONS = 4096


def _observations() -> dict[str, deque[float]]:
    return {name: deque(maxlen=KEPT_OBSERVATIONS) for name in ("step_seconds", "first_frame_seconds")}


@dataclass
class Statistics:
    """Counts since start, and single measurements since they were last taken."""

    steps: int = 0
    frames: int = 0
    prefilled: int = 0
    """Positions of prompts computed; those found in shared blocks are not among them."""
    busy_s: float = 0.0
    submitted: int = 0
    rejected: int = 0
    """Utterances refused on arrival, because the line was full or the server stops."""
    finished: Counter[str] = field(default_factory=Counter)
    """By reason: one of `REASONS`."""
    observations: dict[str, deque[float]] = field(default_factory=_observations)

    def end(self, finish: str) -> None:
        """Count an utterance's end by its FINISH."""
        error = error_of(finish)
        self.finished[error.code.lower() if error else finish] += 1

    def take_observations(self) -> dict[str, list[float]]:
        """Measurements since the last call, by name. Any thread may call it while the loop goes on measuring: a deque's
        ends need no lock."""
        return {name: [values.popleft() for _ in range(len(values))] for name, values in self.observations.items()}
