"""A plan as an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.capacity import report
from benchmarks.load.plots import COLOURS, FAILED, STYLE, svg
from benchmarks.pages import render
from benchmarks.sweep.objective import Objective

TONES = (COLOURS[0], "#94a3b8", "#475569", COLOURS[1])


def write_page(path: Path, plan: dict[str, Any]) -> Path:
    return render(
        path,
        "capacity/page.html",
        name=path.stem,
        plan=plan,
        answer=report.answer_in_words(plan),
        traffic=report.traffic_in_words(plan),
        objective=Objective(**plan["objective"]),
        labels=report.labels(plan),
        head=report.HEAD,
        options=[report.row(answer) for answer in plan["options"]],
        changes=[report.row(answer) for answer in plan["changes"]],
        deaths=[report.death_in_words(death) for death in plan["deaths"]],
        load_plot=svg(load_plot(plan)),
        day_plot=svg(day_plot(plan)) if plan["options"][0]["fleet"] else "",
    )


def load_plot(plan: dict[str, Any]) -> Figure:
    """Time to first audio and continuity of one server over the streams on it, for every base option."""
    objective = Objective(**plan["objective"])
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for answer, tone in zip(plan["options"], TONES, strict=False):
            points = [point for point in answer["points"] if point["ttfa_p95_ms"] is not None]
            streams = [point["streams"] for point in points]
            faces = [tone if not point["misses"] else "white" for point in points]
            for axes, values in (
                (upper, [point["ttfa_p95_ms"] for point in points]),
                (lower, [100 * point["continuity"] for point in points]),
            ):
                axes.plot(streams, values, color=tone, linewidth=1.2, label=answer["name"])
                axes.scatter(streams, values, c=faces, edgecolors=tone, zorder=3, s=22)
        upper.axhline(objective.ttfa_p95_ms, color=FAILED, linewidth=1)
        best = min(
            (point["ttfa_p95_ms"] or 0.0 for answer in plan["options"] for point in answer["points"]), default=0.0
        )
        upper.set(ylabel="TTFA p95, ms", ylim=(0, 3 * max(objective.ttfa_p95_ms, best)))
        upper.legend(fontsize=8)
        lower.axhline(100 * objective.continuity, color=FAILED, linewidth=1)
        lower.set(xlabel="streams on one server", ylabel="continuity, %", ylim=(-3, 103), xlim=(0, None))
        return figure


def day_plot(plan: dict[str, Any]) -> Figure:
    """GPUs by hour of a plan that has a fleet."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.6), layout="constrained")
        axes = figure.subplots()
        fleet = plan["options"][0]["fleet"]
        hours = range(24)
        axes.bar(hours, fleet["by_hour"], color=COLOURS[0], alpha=0.8)
        axes.axhline(fleet["with_spare"], color=COLOURS[1], linewidth=1)
        axes.set(xlabel="hour of the day", ylabel="GPUs", xticks=list(hours)[::3])
        return figure
