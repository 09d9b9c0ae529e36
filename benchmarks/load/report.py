"""A run on the terminal: its progress, and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.load.drive import Run
from benchmarks.load.server_share import OTHERS

POINTS = ("p50", "p90", "p95", "p99", "max")
NAMES = {
    "ttfa_ms": "time to first audio, ms",
    "audible_ttfa_ms": "time to first audible sample, ms",
    "leading_silence_ms": "leading silence, ms",
    "gap_ms": "gap between chunks, ms",
    "rtf": "real-time factor",
    "underrun_s": "underrun, s",
}


OF_GOOD_CALLS = ("gap_ms", "leading_silence_ms")
"""Figures that failed calls do not have."""


@contextmanager
def progress(seconds: float, console: Console) -> Iterator[Callable[[Run], None]]:
    """Yield a function that shows a run on one line, and begins anew with every other run.

    The line is drawn only when the function is called: a thread that draws would take its time from the calls.
    """
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[state]}")
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task("load", total=seconds, state="warming up")
        shown: Run | None = None

        def show(run: Run) -> None:
            nonlocal shown
            if run is not shown:
                shown = run
                bar.reset(task)
            bar.update(task, completed=min(bar.tasks[0].elapsed or 0.0, seconds), state=_state(run), refresh=True)

        yield show


def _state(run: Run) -> str:
    failed = sum(1 for answer in run.answers if answer.error)
    times = {
        "first audio": [answer.ttfa_s for answer in run.answers if answer.ttfa_s is not None],
        "audible": [answer.audible_ttfa_s for answer in run.answers if answer.audible_ttfa_s is not None],
        "silence": [answer.leading_silence_s for answer in run.answers if answer.leading_silence_s is not None],
    }
    medians = [f"{name} {median(found) * 1000:.0f}" for name, found in times.items() if found]
    first = f"; medians in ms: {', '.join(medians)}" if medians else ""
    return f"{run.under_way} under way, {len(run.answers)} done, {failed} failed{first}"


def show_result(result: dict[str, Any], console: Console) -> None:
    """Print the overall figures as a table, and whether the result is valid."""
    overall, generator = result["overall"], result["generator"]
    table = Table("", *POINTS, title=describe(result["load"]), title_justify="left")
    for key, name in NAMES.items():
        table.add_row(name, *[percentile(overall, key, point) for point in POINTS])
    console.print(table)
    facts = {
        "calls": counts(overall),
        "continuity": share(overall["continuity"]),
        "marks": f"checked in {result.get('watermarks_checked', 0)} answers",
        "audio": f"{overall['audio_s_per_s']:.2f} s per s",
        **{stage: f"busy {spent['busy_share']:.0%} of the time" for stage, spent in (result["stages"] or {}).items()},
        **{each["process"]: f"{each['cores']:.2f} cores" for each in result["processes"] if each["process"] == OTHERS},
        "generator": f"lag p99 {figure(generator['loop_lag_ms']['p99'])} ms, {generator['cpu_share']:.0%} of a core",
    }
    for name, words in facts.items():
        console.print(f"{name:<24} {words}", highlight=False)
    # The message of the first call of each kind of failure.
    for call in {call["error"]: call for call in reversed(result["calls"]) if call["error"]}.values():
        words = ": ".join(filter(None, (call["error"], call["words"])))
        console.print(f"{'a call failed':<24} {words}", style="red", highlight=False, markup=False)
    show_faults(result["why_invalid"], console)


def show_faults(faults: list[str], console: Console) -> None:
    """Print why a result is not valid."""
    for fault in faults:
        console.print(f"{'NOT VALID':<24} {fault}", style="bold red", highlight=False)


def counts(overall: dict[str, Any]) -> str:
    """Return the number of calls by the way they ended."""
    ended = f"{overall['heard_to_the_end']} heard to the end, {overall['hung_up']} hung up"
    return f"{overall['calls']}: {ended}, failed: {failures(overall)}"


def failures(overall: dict[str, Any]) -> str:
    """Return the number of failed calls by kind."""
    return ", ".join(f"{count} {kind}" for kind, count in overall["errors"].items()) or "none"


def describe(load: dict[str, Any]) -> str:
    """Return a load in words."""
    calls = f"{load['streams']} streams" if load["streams"] else f"{load['rate']:g} calls per s, {load['arrivals']}"
    texts = f"texts of {load['chars']} code points (median)"
    chunks = f"chunks of {load['chunk_frames']} frames" if load["chunk_frames"] else "the server's chunks"
    shares = {
        "a voice": load["voice_share"] if load["voices"] else 0,
        "a hang-up": load["cancel_share"],
        "a slow reader": load["slow_share"],
    }
    extra = [f"{share:.0%} with {what}" for what, share in shares.items() if share]
    return ", ".join([calls, f"{load['seconds']:g} s", texts, chunks, *extra])


def figure(value: float | None) -> str:
    """Return a figure in four digits; a percentile that falls among the failed calls is no number."""
    return "failed" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def percentile(overall: dict[str, Any], key: str, point: str) -> str:
    """Return a percentile of a load's overall figures.

    A percentile is no number if it falls among the failed calls, or if there was nothing to count: no caller listened
    to the end, nothing came in two chunks (a failed call has no gaps), or the result is older than the figure.
    """
    if key not in overall:
        return "-"
    value = overall[key][point]
    return "-" if value is None and (key in OF_GOOD_CALLS or not overall["errors"]) else figure(value)


def share(value: float | None) -> str:
    """Return a share in per cent, never rounded up to 100 %."""
    return "-" if value is None else f"{math.floor(value * 10_000) / 100:.2f} %"
