"""The plots of a result's page, as SVG elements."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.load.playback import Arrival, buffered, gaps, play

Result = dict[str, Any]

COLOURS = ("#0f766e", "#c2410c")
"""Colours of the two results of a page, as in its style sheet."""
WAITING, FAILED = "#cbd5e1", "#be123c"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be found and copied, and takes the page's font
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#475569",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def first_audio(results: Sequence[Result], names: Sequence[str]) -> str:
    """Return the share of calls with audio over time, p50 and p95 as dots; failed calls keep it below 100 %."""
    with _axes("s since the call was due", "calls that have heard something, %") as (figure, axes):
        for result, name, colour in zip(results, names, COLOURS, strict=False):
            heard = np.sort([call["ttfa_ms"] / 1000 for call in result["calls"] if call["ttfa_ms"] is not None])
            share = np.arange(1, len(heard) + 1) / max(len(result["calls"]), 1) * 100
            axes.step([0, *heard], [0, *share], where="post", color=colour, linewidth=2, label=name)
            for point in ("p50", "p95"):
                at = result["overall"]["ttfa_ms"][point]
                if at is not None:
                    axes.plot(at / 1000, int(point[1:]), "o", color=colour)
        axes.set(xlim=(0, None), ylim=(0, 103))
        _legend(axes, results)
        return svg(figure)


def chunk_gaps(results: Sequence[Result], names: Sequence[str]) -> str:
    """Return a histogram of the times from a chunk to the next."""
    found = [[gap * 1000 for call in _played(each) for gap in gaps(_arrivals(call))] for each in results]
    with _axes("ms from a chunk to the next", "gaps, %") as (figure, axes):
        bins = np.linspace(0, max((max(each, default=0) for each in found), default=0) or 1, 50).tolist()
        for each, name, colour in zip(found, names, COLOURS, strict=False):
            weights = np.full(len(each), 100 / max(len(each), 1))
            axes.hist(each, bins, weights=weights, color=colour, alpha=0.6, label=name)
        _legend(axes, results)
        return svg(figure)


def timeline(result: Result, colour: str) -> str:
    """Return every call as a line from when it was due to its end, and the number of calls at each moment."""
    calls = result["calls"]
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.6), layout="constrained")
        lines, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for call in calls:
            heard = call["chunk_at_s"][0] if call["chunk_at_s"] else call["ended_s"]
            width = min(6.0, 160 / len(calls))
            lines.hlines(call["number"], call["due_s"], heard, color=WAITING, linewidth=width)
            lines.hlines(call["number"], heard, call["ended_s"], color=colour, linewidth=width)
            if call["error"]:
                lines.plot(call["ended_s"], call["number"], "x", color=FAILED)
        lines.set(ylabel="call")
        lines.invert_yaxis()
        lines.grid(axis="y", visible=False)
        speaking = [(call["chunk_at_s"][0], call["ended_s"]) for call in calls if call["chunk_at_s"]]
        for spans, tone in (([(call["due_s"], call["ended_s"]) for call in calls], WAITING), (speaking, colour)):
            counts.fill_between(*at_once(spans), step="post", color=tone)
        counts.set(xlabel="s since the start", ylabel="at once", xlim=(0, None), ylim=(0, None))
        return svg(figure)


def playback_buffer(result: Result, colour: str) -> str:
    """Return the audio in each player's buffer; those that ran out have the colour of failure."""
    with _axes("s since the first chunk", "s of audio in hand") as (figure, axes):
        for call in sorted(_played(result), key=lambda each: each["stalls"]):
            tone = FAILED if play(_arrivals(call)).stalls else colour
            axes.plot(*buffered(_arrivals(call)), color=tone, linewidth=0.8, alpha=0.5)
        axes.set(xlim=(0, None), ylim=(0, None))
        return svg(figure)


def _played(result: Result) -> list[Result]:
    """Return the calls with a playback that `summary` judges."""
    return [call for call in result["calls"] if call["stalls"] is not None]


def _arrivals(call: Result) -> list[Arrival]:
    return [Arrival(at, samples) for at, samples in zip(call["chunk_at_s"], call["chunk_samples"], strict=True)]


def at_once(spans: Sequence[tuple[float, float]]) -> tuple[list[float], list[int]]:
    """Return times, and the number of spans that hold from each time on."""
    steps = sorted(step for begun, ended in spans for step in ((begun, 1), (ended, -1)))
    return [at for at, _ in steps], np.cumsum([step for _, step in steps]).tolist()


@contextmanager
def _axes(across: str, up: str) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure of the page's size and style with one pair of axes."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.set(xlabel=across, ylabel=up)
        yield figure, axes


def _legend(axes: Axes, results: Sequence[Result]) -> None:
    if len(results) > 1:
        axes.legend()


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element, without the prolog of a file."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
