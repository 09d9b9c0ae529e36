"""A result of `misotts bench load`, or two, as one HTML page that loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.load import compare, plots, report

WORST = 10
"""Number of calls that the page lists one by one."""
FILTERS = (report.figure, report.share, report.describe, report.counts, report.percentile)


def write_page(path: Path, *named: tuple[str, dict[str, Any]]) -> Path:
    """Write the page of one or two results, each with its name."""
    names, results = zip(*named, strict=True)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {each.__name__: each for each in FILTERS}
    page = environment.get_template("page.html").render(
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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def worst(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the calls that failed, then those with the longest underrun, then those with the latest first audio."""

    def badness(call: dict[str, Any]) -> tuple[bool, float, float]:
        return bool(call["error"]), call["underrun_s"] or 0.0, call["ttfa_ms"] or 0.0

    return sorted(result["calls"], key=badness, reverse=True)[:WORST]
