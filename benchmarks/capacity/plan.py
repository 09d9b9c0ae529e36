"""A plan: the answer for every option, ready for JSON and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.capacity.planner import Holding, Option, Planner, fleet


def make_plan(
    planner: Planner, bases: Sequence[Option], changes: Sequence[Option], prices: Mapping[str, float]
) -> dict[str, Any]:
    """Return the plan, which rests on the first of `bases`; the others span what is not known.

    `prices`: price of a GPU-hour by the GPU's name.
    """
    traffic, holdings, start = planner.traffic, [], 4.0
    for option in (*bases, *changes):
        holdings.append(planner.holds(option, start))
        if best := holdings[-1].best:
            start = best.rate
    answers = [_answer(holding, planner, prices) for holding in holdings]
    found = fleet(holdings[0], traffic)
    return {
        "traffic": {
            **asdict(traffic),
            "mean_utterance_s": round(traffic.mean_utterance_s, 3),
            "peak_streams": round(traffic.peak_streams, 1),
            "peak_calls_per_s": round(traffic.peak_rate, 2),
            "audio_hours_a_day": round(traffic.audio_hours_a_day, 1),
        },
        "objective": asdict(planner.objective),
        "options": answers[: len(bases)],
        "changes": answers[len(bases) :],
        "failures": [planner.failure(bases[0], count) for count in (found.at_peak, found.with_spare)] if found else [],
    }


def _answer(holding: Holding, planner: Planner, prices: Mapping[str, float]) -> dict[str, Any]:
    option, best, found = holding.option, holding.best, fleet(holding, planner.traffic)
    price, per_audio_hour = prices.get(option.gpu), None
    if found and price is not None:
        fixed, scaled = (found.price_per_audio_hour(planner.traffic, price, scaled) for scaled in (False, True))
        per_audio_hour = {"fixed": round(fixed, 4), "scaled": round(scaled, 4)}
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
        "price_per_audio_hour": per_audio_hour,
    }
