"""What the generate stage counts, for the metrics."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

REASONS = ("eos", "length", "cancelled", "deadline_exceeded", "unavailable", "internal")
"""Why utterances end: the first two are whole ones, the others the lower-case codes of errors."""

KEPT_OBSERVATIONS = 4096


def _observations() -> defaultdict[str, deque[float]]:
    return defaultdict(lambda: deque(maxlen=KEPT_OBSERVATIONS))


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
    observations: defaultdict[str, deque[float]] = field(default_factory=_observations)

    def end(self, finish: str) -> None:
        """Count an utterance's end by its FINISH."""
        reason = finish.removeprefix("error: ").split(":")[0].lower()
        self.finished[reason] += 1

    def take_observations(self) -> dict[str, list[float]]:
        """Measurements since the last call, by name."""
        taken, self.observations = self.observations, _observations()
        return {name: list(values) for name, values in taken.items()}
