"""A plan in words: the rows of the terminal's table, and the sentences around it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.load.report import figure, share
from benchmarks.sweep.objective import Objective

HEAD = ("", "streams", "TTFA p95", "bottleneck", "GPUs", "and a spare", "per audio-hour")


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
        return f"{planned['label']}: not even a lone caller's objective holds."
    numbers = [f"{planned['fleet']['with_spare']} GPUs, of which one is a spare"]
    for other in others:
        numbers.append(f"{other['name']}: {other['fleet']['with_spare'] if other['fleet'] else 'no number of them'}")
    return f"{'; '.join(numbers)}."


def traffic_in_words(plan: dict[str, Any]) -> str:
    traffic = plan["traffic"]
    return (
        f"{traffic['callers']:,} callers at the peak, each spoken to {traffic['talk_share']:.0%} of the time in"
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
        ttfa, continuity = figure(part["ttfa_ms"]["p95"]), share(part["continuity"])
        parts.append(f"{when} TTFA p95 {ttfa} ms, continuity {continuity} ({state})")
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
    for failure in plan["failures"]:
        console.print(failure_in_words(failure), highlight=False)
    for label in dict.fromkeys(answer["label"] for answer in (*plan["options"], *plan["changes"])):
        console.print(f"costs: {label}", style="yellow", highlight=False)
