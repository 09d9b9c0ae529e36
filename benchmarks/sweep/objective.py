"""What a service promises its callers, and whether a load's figures hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.load.report import figure, share


@dataclass(frozen=True)
class Objective:
    """Both must hold."""

    ttfa_p95_ms: float
    """At most: the time to first audio that 95 of 100 calls stay within; a failed call counts as the worst."""
    continuity: float
    """At least: the share of calls that never starved; a failed call has starved."""

    def misses(self, overall: dict[str, Any]) -> list[str]:
        """What the overall figures of a load miss, in words; nothing if they hold."""
        found = []
        p95, continuity = overall["ttfa_ms"]["p95"], overall["continuity"]
        if p95 is None or p95 > self.ttfa_p95_ms:
            found.append(f"TTFA p95 {figure(p95)}" + (" ms" if p95 is not None else ""))
        if continuity is None or continuity < self.continuity:
            found.append(f"continuity {share(continuity)}")
        return found

    def __str__(self) -> str:
        return f"TTFA p95 <= {self.ttfa_p95_ms:g} ms, continuity >= {100 * self.continuity:g} %"
