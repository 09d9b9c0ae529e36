"""A plan in words: the rows of the terminal's table, and the sentences around it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.load.report import figure, share
from benchmarks.sweep.objective import Objective

HEAD = ("", "streams", "TTFA p95", "bottleneck", "GPUs", "and a spare", "per audio-hour")


def row(answer: dict[str, Any]) -> list[str]:
    """One option under `HEAD`."""
    fleet, price = answer["fleet"], answer["price_per_audio_hour"]
    if not fleet:
        return [answer["name"], "does not hold", "-", "-", "-", "-", "-"]
    cost = f"{price['fixed']:.3f} ({price['scaled']:.3f})" if price else "-"
    p95 = figure(answer["ttfa_ms"]["p95"])
    counts = [str(fleet["at_peak"]), str(fleet["with_spare"])]
    return [answer["name"], f"{answer['streams']:.0f}", p95, answer["bottleneck"], *counts, cost]


def answer_in_words(plan: dict[str, Any]) -> str:
    """The plan's number, and the span of what is not known."""
    planned, others = plan["options"][0], plan["options"][1:]
    if not planned["fleet"]:
        return f"{planned['label']}: not even a lone caller's objective holds."
    said = [f"{planned['fleet']['with_spare']} GPUs, of which one is a spare"]
    for other in others:
        said.append(f"{other['name']}: {other['fleet']['with_spare'] if other['fleet'] else 'no number of them'}")
    return f"{'; '.join(said)}."


def traffic_in_words(plan: dict[str, Any]) -> str:
    traffic = plan["traffic"]
    return (
        f"{traffic['callers']:,} callers at the peak, each spoken to {traffic['talk_share']:.0%} of the time in"
        f" utterances of {traffic['mean_utterance_s']:.1f} s: {traffic['peak_streams']:,.0f} streams,"
        f" {traffic['peak_calls_per_s']:.1f} utterances begin in a second;"
        f" {traffic['audio_hours_a_day']:,.0f} hours of audio a day"
    )


def death_in_words(death: dict[str, Any]) -> str:
    """What callers hear when one of so many servers dies at the peak."""
    if death["all_is_lost"]:
        return "1 server: its death ends every call."
    said = f"{death['nodes']} servers, one dies: {death['broken_streams']} utterances break off and are begun again;"
    for name, words in (("first_seconds", "in the first 10 s"), ("later", "after that")):
        part = death[name]
        state = "the objective holds" if not part["misses"] else f"MISSED: {', '.join(part['misses'])}"
        said += (
            f" {words} TTFA p95 {figure(part['ttfa_ms']['p95'])} ms, continuity {share(part['continuity'])} ({state});"
        )
    return said.rstrip(";") + "."


def labels(plan: dict[str, Any]) -> list[str]:
    """Where the figures come from, each source once."""
    return list(dict.fromkeys(answer["label"] for answer in (*plan["options"], *plan["changes"])))


def show_plan(plan: dict[str, Any], console: Console) -> None:
    console.print(traffic_in_words(plan), highlight=False)
    console.print(f"objective: {Objective(**plan['objective'])}", highlight=False)
    table = Table(*HEAD, title=answer_in_words(plan), title_justify="left")
    for answer in plan["options"]:
        table.add_row(*row(answer))
    table.add_section()
    for answer in plan["changes"]:
        table.add_row(*row(answer))
    console.print(table)
    for death in plan["deaths"]:
        console.print(death_in_words(death), highlight=False)
    for label in labels(plan):
        console.print(f"costs: {label}", style="yellow", highlight=False)
