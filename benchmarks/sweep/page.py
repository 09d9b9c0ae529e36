"""A sweep as an HTML page and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.load.plots import COLOURS, FAILED, STYLE, WAITING, svg
from benchmarks.load.report import figure as number
from benchmarks.pages import render
from benchmarks.sweep.measure import DIGITS
from benchmarks.sweep.objective import Objective


def write_page(path: Path, result: dict[str, Any]) -> Path:
    """Write the page of a sweep's result, and its plot as a PNG beside it."""
    plot = knee_plot(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    plot.savefig(path.with_suffix(".png"), dpi=150, facecolor="white")
    holds = result["knee"]["holds"]
    best = [point for point in result["points"] if holds is not None and point["rate"] == round(holds, DIGITS)]
    return render(
        path,
        "sweep/page.html",
        name=path.stem,
        result=result,
        objective=Objective(**result["objective"]),
        knee="none" if holds is None else number(holds),
        best=best[0] if best else None,
        plot=svg(plot),
    )


def knee_plot(result: dict[str, Any]) -> Figure:
    """Time to first audio and continuity over the rate of calls, with the objective and the knee."""
    points, objective = result["points"], Objective(**result["objective"])
    rates = [point["rate"] for point in points]
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for name, colour in (("p95", COLOURS[0]), ("p50", WAITING)):
            known = [(rate, point["ttfa_ms"][name]) for rate, point in zip(rates, points, strict=True)]
            heard = [(rate, value) for rate, value in known if value is not None]
            if heard:
                upper.plot(*zip(*heard, strict=True), "o-", color=colour, label=name)
        upper.axhline(objective.ttfa_p95_ms, color=FAILED, linewidth=1, label="objective (p95)")
        upper.set(ylabel="ms to first audio", ylim=(0, None), xscale="log")
        upper.legend()
        lower.plot(rates, [100 * (point["continuity"] or 0) for point in points], "o-", color=COLOURS[0])
        lower.axhline(100 * objective.continuity, color=FAILED, linewidth=1)
        lower.set(xlabel="calls per s", ylabel="continuity, %", ylim=(-3, 103), xscale="log")
        lower.set_xticks(rates, [number(rate) for rate in rates], rotation=45)
        lower.minorticks_off()
        knee = result["knee"]
        if knee["holds"] is not None:
            for axes in (upper, lower):
                axes.axvspan(knee["holds"], knee["misses"] or max(rates), color=COLOURS[1], alpha=0.15, linewidth=0)
        return figure
