"""A plan: the answer for every option, ready for JSON and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.capacity.planner import Holding, Option, Planner, fleet


def make_plan(
    planner: Planner, bases: Sequence[Option], changes: Sequence[Option], prices: Mapping[str, float]
) -> dict[str, Any]:
    """The plan rests on the first of `bases`; the others span what is not known. `prices`: of a GPU and hour, by the
    GPU's name."""
    traffic = planner.traffic
    holdings = []
    start = 4.0
    for option in (*bases, *changes):
        holdings.append(planner.holds(option, start))
        if holdings[-1].best:
            start = holdings[-1].best.rate
    planned = holdings[0]
    found = fleet(planned, traffic)
    return {
        "traffic": {
            **asdict(traffic),
            "mean_utterance_s": round(traffic.mean_utterance_s, 3),
            "peak_streams": round(traffic.peak_streams, 1),
            "peak_calls_per_s": round(traffic.peak_rate, 2),
            "audio_hours_a_day": round(traffic.audio_hours_a_day, 1),
        },
        "objective": asdict(planner.objective),
        "options": [_answer(holding, planner, prices) for holding in holdings[: len(bases)]],
        "changes": [_answer(holding, planner, prices) for holding in holdings[len(bases) :]],
        "deaths": [planner.death(planned.option, nodes) for nodes in (found.at_peak, found.with_spare)]
        if found
        else [],
    }


def _answer(holding: Holding, planner: Planner, prices: Mapping[str, float]) -> dict[str, Any]:
    option, best, found = holding.option, holding.best, fleet(holding, planner.traffic)
    price = prices.get(option.gpu)
    return {
        "name": option.name,
        "label": option.costs.label,
        "source": option.costs.source,
        "slots": planner.limits(option).max_streams,
        "calls_per_s": round(best.rate, 3) if best else None,
        "streams": round(holding.streams(planner.traffic), 1),
        "ttfa_ms": best.overall["ttfa_ms"] if best else None,
        "continuity": best.overall["continuity"] if best else None,
        "busy": best.busy if best else None,
        "bottleneck": best.bottleneck if best else None,
        "fleet": asdict(found) if found else None,
        "price_per_hour": price,
        "price_per_audio_hour": {
            name: round(found.price_per_audio_hour(planner.traffic, price, scaled), 4)
            for name, scaled in (("fixed", False), ("scaled", True))
        }
        if found and price is not None
        else None,
    }
