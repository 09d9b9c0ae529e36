"""One result, or two, as an HTML page that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.load import compare, plots, report
from benchmarks.pages import render

WORST = 10
"""Calls that the page lists one by one."""


def write_page(path: Path, *named: tuple[str, dict[str, Any]]) -> Path:
    """Write the page of one or two results, each with its name."""
    names, results = zip(*named, strict=True)
    return render(
        path,
        "load/page.html",
        names=names,
        results=results,
        figures=report.NAMES,
        points=report.POINTS,
        comparison=compare.rows(*results) if len(results) == 2 else [],
        differences=compare.differences(*results) if len(results) == 2 else [],
        worst=[worst(result) for result in results],
        first_audio=plots.first_audio(results, names),
        chunk_gaps=plots.chunk_gaps(results, names),
        timelines=[plots.timeline(*each) for each in zip(results, plots.COLOURS, strict=False)],
        buffers=[plots.playback_buffer(*each) for each in zip(results, plots.COLOURS, strict=False)],
    )


def worst(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls that failed, then those that starved longest, then those that waited longest for their first audio."""

    def badness(call: dict[str, Any]) -> tuple[bool, float, float]:
        return bool(call["error"]), call["underrun_s"] or 0.0, call["ttfa_ms"] or 0.0

    return sorted(result["calls"], key=badness, reverse=True)[:WORST]
