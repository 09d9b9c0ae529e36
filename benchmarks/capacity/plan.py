"""A plan: the answer for every option, ready for JSON and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.capacity.conversations import Conversations, in_words
from benchmarks.capacity.options import held_back
from benchmarks.capacity.planner import Holding, Option, Planner, fleet
from benchmarks.load.report import figure, share
from benchmarks.sweep.knee import Objective
from benchmarks.sweep.points import POINTS

HEAD = ("", "streams", "TTFA p95", "bottleneck", "GPUs", "and a spare", "per audio-hour")


def make_plan(
    planner: Planner,
    bases: Sequence[Option],
    changes: Sequence[Option],
    prices: Mapping[str, float],
    conversations: Conversations,
) -> dict[str, Any]:
    """Return the plan, which rests on the first of `bases`; the others span what is not known.

    `prices`: price of a GPU-hour by the GPU's name. `conversations`: those of the callers.
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
        "operating_points": [
            planner.operating_point(option, point) for point in POINTS for option in (*bases, *held_back(bases[:1]))
        ],
        "conversations": conversations.figures(traffic, bases[0].costs, holdings[0].streams(traffic)),
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


def row(answer: dict[str, Any]) -> list[str]:
    """Return one option under `HEAD`."""
    fleet, price = answer["fleet"], answer["price_per_audio_hour"]
    if not fleet:
        return [answer["name"], "does not hold", *["-"] * (len(HEAD) - 2)]
    cost = f"{price['fixed']:.3f} ({price['scaled']:.3f})" if price else "-"
    p95 = figure(answer["ttfa_ms"]["p95"])
    counts = [str(fleet["at_peak"]), str(fleet["with_spare"])]
    return [answer["name"], f"{answer['streams']:.0f}", p95, answer["bottleneck"], *counts, cost]


def answer_in_words(plan: dict[str, Any]) -> str:
    """Return the plan's number of GPUs, and the numbers of the other options."""
    planned, others = plan["options"][0], plan["options"][1:]
    if not planned["fleet"]:
        return f"{planned['label']}: not even a single caller's objective holds."
    numbers = [f"{planned['fleet']['with_spare']} GPUs, of which one is a spare"]
    for other in others:
        numbers.append(f"{other['name']}: {other['fleet']['with_spare'] if other['fleet'] else 'no number of them'}")
    return f"{'; '.join(numbers)}."


def traffic_in_words(plan: dict[str, Any]) -> str:
    traffic = plan["traffic"]
    return (
        f"{traffic['callers']:,} callers at the peak, each hears speech {traffic['talk_share']:.0%} of the time in"
        f" utterances of {traffic['mean_utterance_s']:.1f} s: {traffic['peak_streams']:,.0f} streams,"
        f" {traffic['peak_calls_per_s']:.1f} utterances begin in a second;"
        f" {traffic['audio_hours_a_day']:,.0f} hours of audio a day"
    )


def failure_in_words(failure: dict[str, Any]) -> str:
    """Return what callers hear when one of the servers fails at the peak."""
    if failure["all_is_lost"]:
        return "1 server: its failure ends every call."
    parts = []
    for name, when in (("first_seconds", "in the first 10 s"), ("later", "after that")):
        part = failure[name]
        state = f"MISSED: {', '.join(part['misses'])}" if part["misses"] else "the objective holds"
        p95 = part["ttfa_ms"]["p95"]
        ttfa = figure(p95) if p95 is None else f"{figure(p95)} ms"
        parts.append(f"{when} TTFA p95 {ttfa}, continuity {share(part['continuity'])} ({state})")
    broken = f"{failure['broken_streams']} utterances break off and are begun again"
    return f"{failure['servers']} servers, one fails: {broken}; {'; '.join(parts)}."


def show_plan(plan: dict[str, Any], console: Console) -> None:
    console.print(traffic_in_words(plan), highlight=False)
    console.print(f"objective: {Objective(**plan['objective'])}", highlight=False)
    table = Table(*HEAD, title=answer_in_words(plan), title_justify="left")
    for part in ("options", "changes"):
        table.add_section()
        for answer in plan[part]:
            table.add_row(*row(answer))
    console.print(table)
    points = Table("operating point", "", "TTFA p50, ms", "p95", "continuity", "")
    for found in plan["operating_points"]:
        ttfa = [figure(found["ttfa_ms"][place]) for place in ("p50", "p95")]
        verdict = f"MISSED: {', '.join(found['misses'])}" if found["misses"] else "holds"
        points.add_row(found["point"], found["option"], *ttfa, share(found["continuity"]), verdict)
    console.print(points)
    console.print("TTFA is that of the first sample; the leading silence of speech comes on top.", highlight=False)
    console.print(in_words(plan["conversations"]), highlight=False)
    for failure in plan["failures"]:
        console.print(failure_in_words(failure), highlight=False)
    for label in dict.fromkeys(answer["label"] for answer in (*plan["options"], *plan["changes"])):
        console.print(f"costs: {label}", style="yellow", highlight=False)
