"""The two operating points of a server, each with its own goal: no server is set up for both at once.

Few streams leave a step short, so that first audio comes soon; many streams fill it, so that a GPU carries more.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.sweep.knee import Objective


@dataclass(frozen=True)
class OperatingPoint:
    """A load, and what it must hold."""

    name: str
    calls_per_s: float | None
    """None: as many as make `streams`."""
    streams: float | None
    """Mean number of callers that hear audio at the same time; None: as many as `calls_per_s` make."""
    objective: Objective

    def rate(self, mean_utterance_s: float) -> float:
        """Return its calls per second."""
        return self.calls_per_s or (self.streams or 0.0) / mean_utterance_s

    def __str__(self) -> str:
        load = f"{self.calls_per_s:g} calls per s" if self.calls_per_s else f"{self.streams:g} streams"
        return f"{self.name}: {load}, {self.objective}"


LATENCY = OperatingPoint("latency", 20, None, Objective(ttfa_p95_ms=50, continuity=1.0))
THROUGHPUT = OperatingPoint("throughput", None, 400, Objective(ttfa_p95_ms=150, continuity=1.0))
POINTS = (LATENCY, THROUGHPUT)
