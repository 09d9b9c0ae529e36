"""From a cost table and a traffic to a fleet: what one server holds, how many it takes, what happens when one dies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from benchmarks.capacity.simulate import Simulated, simulate
from benchmarks.capacity.traffic import Traffic
from benchmarks.costs.table import CostTable
from benchmarks.load.caller import Answer
from benchmarks.load.plan import Call, calls
from benchmarks.load.summary import overall
from benchmarks.sweep.knee import find_knee
from benchmarks.sweep.objective import Objective
from misotts.engines.interface import Limits

WARM_UP_S = 10.0
"""Calls that are due earlier meet a server that fills up: simulated, not counted."""
CALLS = 2000
"""Counted at each rate: two starved ones are the most that a continuity of 99.9 % allows."""
PRECISION = 0.05
LONE_STREAMS = 0.05
"""So few streams on a server meet each other hardly ever: what does not hold for them holds for nobody."""
BEFORE_S, AFTER_S = 60.0, 60.0
"""Simulated around the death of a node."""
BURST_S = 10.0
"""After a node's death, in which its callers call again."""
SATURATED = 0.9
"""A stage that is busy for more than this share of the time is the bottleneck."""


@dataclass(frozen=True)
class Option:
    """One way to serve the traffic."""

    name: str
    costs: CostTable
    gpu: str = ""
    """Name of the GPU, by which it has a price."""
    chunk_frames: int = 0
    """As in the contract; 0 is the server's pace."""


@dataclass(frozen=True)
class Point:
    """One server under one rate of calls."""

    rate: float
    overall: dict[str, Any]
    busy: dict[str, float]
    """Share of the time that each stage was at work."""
    misses: list[str]

    @property
    def bottleneck(self) -> str:
        stage = max((name for name in self.busy if name != "device"), key=lambda name: self.busy[name])
        return stage if self.busy[stage] >= SATURATED else "none"


@dataclass(frozen=True)
class Holding:
    """What one server holds."""

    option: Option
    best: Point | None
    """The largest rate found that holds the objective; None if not even a lone caller's would."""
    points: list[Point]
    """All that were tried, slowest rate first."""

    def streams(self, traffic: Traffic) -> float:
        """Callers spoken to at the same time, on average."""
        return self.best.rate * traffic.mean_utterance_s if self.best else 0.0

    def nodes(self, rate: float) -> int | None:
        """Servers that `rate` calls per s need; None if no number of them holds the objective."""
        return math.ceil(rate / self.best.rate - 1e-9) if self.best else None


class Planner:
    """Answers for one traffic and one objective."""

    def __init__(
        self,
        traffic: Traffic,
        objective: Objective,
        max_streams: int,
        seed: int = 0,
        counted: int = CALLS,
        said: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`counted` calls at each rate; `said` gets a line for each rate tried."""
        self.traffic, self.objective = traffic, objective
        self._max_streams, self._seed, self._counted, self._said = max_streams, seed, counted, said

    def limits(self, option: Option) -> Limits:
        """Seats as asked for, but no more than the cost table covers; a line as long."""
        seats = min(self._max_streams, option.costs.max_batch)
        return Limits(max_streams=seats, max_waiting=max(seats, 64))

    def holds(self, option: Option, start: float = 1.0) -> Holding:
        """Search for the largest rate that holds the objective."""
        points: list[Point] = []

        def holds(rate: float) -> bool:
            points.append(self.point(option, rate))
            self._said(f"{option.name}: {rate:.2f} calls per s {'miss' if points[-1].misses else 'hold'}")
            return not points[-1].misses

        knee = find_knee(holds, start, PRECISION, least=LONE_STREAMS / self.traffic.mean_utterance_s)
        best = next((point for point in points if point.rate == knee.holds), None)
        return Holding(option, best, sorted(points, key=lambda point: point.rate))

    def point(self, option: Option, rate: float) -> Point:
        """One server under `rate` calls per s, in a steady state."""
        seconds = WARM_UP_S + self._counted / rate
        run = simulate(
            self.traffic.load(rate, seconds, self._seed, option.chunk_frames), option.costs, self.limits(option)
        )
        figures = overall([answer for answer in run.answers if answer.due_s >= WARM_UP_S], seconds)
        del figures["audio_s_per_s"]  # of calls of which a part was not counted
        return Point(rate, figures, _busy(run), self.objective.misses(figures))

    def death(self, option: Option, nodes: int) -> dict[str, Any]:
        """One of `nodes` servers at the peak dies: what its callers and the others' hear on the servers that are left.

        The broken streams' callers call again at once, and all later calls go to the servers that are left, evenly.
        """
        rate = self.traffic.peak_rate
        broken = round(rate / nodes * self.traffic.mean_utterance_s)
        if nodes == 1:
            return {"nodes": 1, "broken_streams": broken, "all_is_lost": True}
        planned = list(self._calls_around_a_death(option, rate / nodes, rate / (nodes - 1), broken / (nodes - 1)))
        load = self.traffic.load(rate / nodes, BEFORE_S + AFTER_S, self._seed, option.chunk_frames)
        run = simulate(load, option.costs, self.limits(option), planned)

        def between(begin: float, end: float) -> dict[str, Any]:
            found = overall([answer for answer in run.answers if begin <= answer.due_s < end], end - begin)
            kept = {name: found[name] for name in ("calls", "errors", "ttfa_ms", "underrun_s", "continuity")}
            return {**kept, "misses": self.objective.misses(found)}

        return {
            "nodes": nodes,
            "broken_streams": broken,
            "all_is_lost": False,
            "before": between(WARM_UP_S, BEFORE_S),
            "first_seconds": between(BEFORE_S, BEFORE_S + BURST_S),
            "later": between(BEFORE_S + BURST_S, BEFORE_S + AFTER_S),
            "were_listening": self._were_listening(run.answers),
        }

    def _calls_around_a_death(self, option: Option, before: float, after: float, burst: float) -> Iterator[Call]:
        def made(rate: float, begin: float, seconds: float, seed: int) -> Iterator[Call]:
            load = self.traffic.load(rate, seconds, seed, option.chunk_frames)
            return (replace(call, at_s=(call.at_s or 0.0) + begin) for call in calls(load))

        # The burst: as many calls as were broken, all within a millisecond.
        again = made(1e6 * max(burst, 1e-9), BEFORE_S, 1e-6, self._seed + 1) if burst >= 1 else iter(())
        parts = chain(made(before, 0.0, BEFORE_S, self._seed), again, made(after, BEFORE_S, AFTER_S, self._seed + 2))
        return (replace(call, number=number) for number, call in enumerate(parts))

    def _were_listening(self, answers: list[Answer]) -> dict[str, Any]:
        """Those on other servers whose utterance was under way when the node died."""
        found = overall([each for each in answers if each.due_s < BEFORE_S < each.ended_s], BEFORE_S)
        return {"calls": found["calls"], "continuity": found["continuity"]}


def _busy(run: Simulated) -> dict[str, float]:
    return {stage: round(seconds / run.seconds, 3) for stage, seconds in run.busy.items()}


@dataclass(frozen=True)
class Fleet:
    """How many servers, and what they cost."""

    at_peak: int
    with_spare: int
    """One more: any one may die, and the others still hold the objective."""
    by_hour: list[int]
    """With a spare in each hour, for a fleet that is scaled."""

    @property
    def hours_a_day(self) -> int:
        """Server-hours of a fleet that stays as it is at the peak."""
        return 24 * self.with_spare

    def price_per_audio_hour(self, traffic: Traffic, price: float, scaled: bool) -> float:
        """In the currency of `price`, which is for one server and hour."""
        hours = sum(self.by_hour) if scaled else self.hours_a_day
        return hours * price / traffic.audio_hours_a_day


def fleet(holding: Holding, traffic: Traffic) -> Fleet | None:
    """The servers that the traffic needs; None if none would do."""
    at_peak = holding.nodes(traffic.peak_rate)
    if at_peak is None:
        return None
    peak = max(traffic.day)
    by_hour = [(holding.nodes(traffic.peak_rate * share / peak) or 0) + 1 for share in traffic.day]
    return Fleet(max(at_peak, 1), max(at_peak, 1) + 1, by_hour)
