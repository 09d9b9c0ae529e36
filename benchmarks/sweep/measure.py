"""The largest open-loop load that a server holds: loads at several rates, each run several times with other calls.

`climb` tries given rates, lowest first, and stops at the first that misses: the rules of nari-labs' `tts_bench`.
`sweep` searches for the knee.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from benchmarks.load.caller import Answer
from benchmarks.load.drive import Run
from benchmarks.load.measure import Target, run_load
from benchmarks.load.plan import Load
from benchmarks.load.report import figure
from benchmarks.load.server_share import other_cores
from benchmarks.load.summary import invalid, pooled
from benchmarks.sweep.knee import Knee, Objective, find_knee

DIGITS = 4
"""Digits of a rate in a result."""


@dataclass(frozen=True)
class Sweep:
    """The settings of a search."""

    objective: Objective
    load: Load
    """Its rate is where the search begins."""
    repeats: int
    """Number of runs at each rate, each with other calls; they are judged together."""
    precision: float = 0.1
    """Of `sweep`: the largest relative distance between the two ends of the search; 0.1 is 10 %."""


@dataclass(frozen=True)
class Tried:
    """One run."""

    answers: list[Answer]
    faults: list[str] = field(default_factory=list)
    """Reasons why the times may be the generator's own."""
    other_cores: float | None = None
    """Cores that neither the server nor the generator used; None where that is not known."""


Try = Callable[[Load], Tried]


def sweep(plan: Sweep, attempt: Try, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return all figures of a sweep, ready for JSON; `show` gets every point as it is found."""
    points: list[dict[str, Any]] = []

    def holds(rate: float) -> bool:
        points.append(_point(plan, attempt, rate))
        show(points[-1])
        return not points[-1]["misses"]

    assert plan.load.rate, "a sweep is an open loop"
    # With less than a call in a run, a run is one call alone: a lower rate cannot be better.
    knee = find_knee(holds, plan.load.rate, plan.precision, least=1 / plan.load.seconds)
    return _result(plan, knee, points)


def climb(plan: Sweep, rates: Sequence[float], attempt: Try, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Promote rates, lowest first, until one misses the objective; see `sweep`."""
    points: list[dict[str, Any]] = []
    best: float | None = None
    for rate in sorted(rates):
        points.append(_point(plan, attempt, rate))
        show(points[-1])
        if points[-1]["misses"]:
            return _result(plan, Knee(best, rate), points)
        best = rate
    return _result(plan, Knee(best, None), points)


def _result(plan: Sweep, knee: Knee, points: list[dict[str, Any]]) -> dict[str, Any]:
    # The knee is doubtful if one of its ends is; other points only led the search there.
    ends = {round(rate, DIGITS) for rate in (knee.holds, knee.misses) if rate is not None}
    faults = [
        f"at {figure(point['rate'])} calls per s: {fault}"
        for point in points
        if point["rate"] in ends
        for fault in point["why_invalid"]
    ]
    return {
        "objective": asdict(plan.objective),
        "load": asdict(replace(plan.load, rate=None)),
        "repeats": plan.repeats,
        "precision": plan.precision,
        "valid": not faults,
        "why_invalid": faults,
        "knee": asdict(knee),
        "points": sorted(points, key=lambda point: point["rate"]),
    }


def _point(plan: Sweep, attempt: Try, rate: float) -> dict[str, Any]:
    loads = [replace(plan.load, rate=rate, seed=plan.load.seed + number) for number in range(plan.repeats)]
    tried = [attempt(load) for load in loads]
    others = [each.other_cores for each in tried if each.other_cores is not None]
    figures = pooled([each.answers for each in tried], plan.load.seconds, plan.load.warm_up_s)
    return {
        "rate": round(rate, DIGITS),
        "misses": plan.objective.misses(figures),
        "why_invalid": [fault for each in tried for fault in each.faults],
        "other_cores": round(fmean(others), 3) if others else None,
        **figures,
    }


def on_server(target: Target, show: Callable[[Run], None]) -> Try:
    """Return runs against a server; `show` gets each run twice a second."""

    def attempt(load: Load) -> Tried:
        measured = run_load(load, target, show)
        return Tried(measured.run.answers, invalid(measured.run), other_cores(measured.processes()))

    return attempt
