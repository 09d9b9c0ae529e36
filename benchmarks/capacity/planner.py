"""From a cost table and a traffic to a fleet: the load of one server, the number of servers, and a server's failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from benchmarks.capacity.simulate import simulate
from benchmarks.capacity.traffic import Traffic
from benchmarks.costs.table import CostTable
from benchmarks.load.plan import Call, calls
from benchmarks.load.summary import overall
from benchmarks.sweep.knee import Objective, find_knee
from benchmarks.sweep.points import OperatingPoint
from misotts.engines.interface import Limits
from misotts.generate.flow import DEFAULTS

WARM_UP_S = 10.0
"""Calls that are due earlier meet a server that is not full yet: they are simulated and not counted."""
PRECISION = 0.05
LONE_STREAMS = 0.05
"""A server with so few streams serves callers one at a time; no slower rate can hold the objective if it does not."""
BEFORE_S, AFTER_S = 60.0, 60.0
"""Simulated time around a server's failure."""
BURST_S = 10.0
"""Time after a failure in which the broken calls are repeated."""
SATURATED = 0.9
"""A stage that is busy for at least this share of the time may be the bottleneck."""


@dataclass(frozen=True)
class Option:
    """One way to serve the traffic."""

    name: str
    costs: CostTable
    gpu: str = ""
    """Name of the GPU, by which it has a price."""
    chunk_frames: int = 0
    """As in the contract; 0 leaves it to the server."""


@dataclass(frozen=True)
class Point:
    """One server under one rate of calls."""

    rate: float
    overall: dict[str, Any]
    busy: dict[str, float]
    """Share of the judged time, from the end of the warm-up to the last call, that each part of the server was busy:
    see `Simulated.busy`."""
    misses: list[str]

    @property
    def bottleneck(self) -> str:
        """The last stage that is busy for `SATURATED` of the time, or `none`; `sending` comes after `watermark`.

        A stage gets no more work than those before it let through, so the last busy one limits them all. `generate`
        works ahead of playback and is busy long before it limits: it is named only where no later stage is busy, and is
        then the limit only if the load is the largest that holds.
        """
        stages = reversed([stage for stage in self.busy if stage != "device"])
        return next((stage for stage in stages if self.busy[stage] >= SATURATED), "none")


@dataclass(frozen=True)
class Holding:
    """The load of one server."""

    option: Option
    best: Point | None
    """The largest rate tried that holds the objective; None if not even a single caller's does."""
    points: list[Point]
    """All rates that were tried, lowest first."""

    def streams(self, traffic: Traffic) -> float:
        """Return the mean number of streams at once."""
        return self.best.rate * traffic.mean_utterance_s if self.best else 0.0

    def servers(self, rate: float) -> int | None:
        """Return the number of servers for `rate` calls per s; None if no number of them holds the objective."""
        return math.ceil(rate / self.best.rate - 1e-9) if self.best else None


@dataclass(frozen=True)
class Fleet:
    """A number of servers."""

    at_peak: int
    with_spare: int
    """One more, so that any one may fail."""
    by_hour: list[int]
    """Servers with a spare in each hour, for a fleet that is scaled."""

    def price_per_audio_hour(self, traffic: Traffic, price: float, scaled: bool) -> float:
        """Return the price of an hour of audio, in the currency of `price`, which is for one server and hour."""
        hours = sum(self.by_hour) if scaled else 24 * self.with_spare
        return hours * price / traffic.audio_hours_a_day


def fleet(holding: Holding, traffic: Traffic) -> Fleet | None:
    """Return the servers for a traffic; None if no number of them holds the objective."""
    at_peak = holding.servers(traffic.peak_rate)
    if at_peak is None:
        return None
    peak = max(traffic.day)
    by_hour = [(holding.servers(traffic.peak_rate * share / peak) or 0) + 1 for share in traffic.day]
    return Fleet(max(at_peak, 1), max(at_peak, 1) + 1, by_hour)


class Planner:
    """Answers for one traffic and one objective."""

    def __init__(
        self,
        traffic: Traffic,
        objective: Objective,
        max_streams: int,
        counted: int,
        seed: int = 0,
        show: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`counted`: calls that are judged at each rate; `show` gets a line for each rate tried."""
        self.traffic, self.objective = traffic, objective
        self._max_streams, self._seed, self._counted, self._show = max_streams, seed, counted, show

    def limits(self, option: Option) -> Limits:
        """Return as many slots as asked for, but no more than the cost table covers, and the server's queue."""
        return Limits(max_streams=min(self._max_streams, option.costs.max_batch))

    def holds(self, option: Option, start: float = 1.0) -> Holding:
        """Search for the largest rate that holds the objective."""
        points: list[Point] = []

        def holds(rate: float) -> bool:
            points.append(self.point(option, rate))
            self._show(f"{option.name}: {rate:.2f} calls per s {'miss' if points[-1].misses else 'hold'}")
            return not points[-1].misses

        knee = find_knee(holds, start, PRECISION, least=LONE_STREAMS / self.traffic.mean_utterance_s)
        best = next((point for point in points if point.rate == knee.holds), None)
        return Holding(option, best, sorted(points, key=lambda point: point.rate))

    def point(self, option: Option, rate: float) -> Point:
        """Simulate one server under `rate` calls per s, in a steady state."""
        seconds = self._counted / rate
        load = replace(self.traffic.load(rate, seconds, self._seed, option.chunk_frames), warm_up_s=WARM_UP_S)
        run = simulate(load, option.costs, self.limits(option), options=DEFAULTS, window=(WARM_UP_S, load.end_s))
        figures = overall(run.answers, seconds, WARM_UP_S)
        busy = {stage: round(busy_s / seconds, 3) for stage, busy_s in run.busy.items()}
        return Point(rate, figures, busy, self.objective.misses(figures))

    def operating_point(self, option: Option, point: OperatingPoint) -> dict[str, Any]:
        """Return how one server holds an operating point. There is no audio in a simulation: its leading silence comes
        on top of the TTFA."""
        found = self.point(option, point.rate(self.traffic.mean_utterance_s))
        self._show(f"{option.name}: {point.name}")
        return {
            "option": option.name,
            "point": str(point),
            "streams": round(found.rate * self.traffic.mean_utterance_s, 1),
            "calls_per_s": round(found.rate, 3),
            "ttfa_ms": found.overall["ttfa_ms"],
            "continuity": found.overall["continuity"],
            "busy": found.busy,
            "misses": point.objective.misses(found.overall),
        }

    def failure(self, option: Option, servers: int) -> dict[str, Any]:
        """Simulate one of the other servers while one of `servers` fails at the peak.

        The broken calls are repeated at once, and all later calls go to the other servers, evenly.
        """
        rate = self.traffic.peak_rate
        broken = round(rate / servers * self.traffic.mean_utterance_s)
        if servers == 1:
            return {"servers": 1, "broken_streams": broken, "all_is_lost": True}
        load = self.traffic.load(rate / servers, BEFORE_S + AFTER_S, self._seed, option.chunk_frames)
        planned = list(self._calls(option, rate / servers, rate / (servers - 1), broken / (servers - 1)))
        run = simulate(load, option.costs, self.limits(option), planned, DEFAULTS)

        def between(begin: float, end: float) -> dict[str, Any]:
            found = overall([answer for answer in run.answers if begin <= answer.due_s < end], end - begin)
            kept = {name: found[name] for name in ("calls", "errors", "ttfa_ms", "underrun_s", "continuity")}
            return {**kept, "misses": self.objective.misses(found)}

        return {
            "servers": servers,
            "broken_streams": broken,
            "all_is_lost": False,
            "before": between(WARM_UP_S, BEFORE_S),
            "first_seconds": between(BEFORE_S, BEFORE_S + BURST_S),
            "later": between(BEFORE_S + BURST_S, BEFORE_S + AFTER_S),
        }

    def _calls(self, option: Option, before: float, after: float, burst: float) -> Iterator[Call]:
        """Return the calls around a failure: their rates before and after it, and the number repeated at once."""

        def made(rate: float, begin: float, seconds: float, seed: int) -> Iterator[Call]:
            load = self.traffic.load(rate, seconds, seed, option.chunk_frames)
            return (replace(call, at_s=(call.at_s or 0.0) + begin) for call in calls(load))

        # All repeated calls come within a microsecond.
        again = made(1e6 * max(burst, 1e-9), BEFORE_S, 1e-6, self._seed + 1) if burst >= 1 else iter(())
        parts = chain(made(before, 0.0, BEFORE_S, self._seed), again, made(after, BEFORE_S, AFTER_S, self._seed + 2))
        return (replace(call, number=number) for number, call in enumerate(parts))
