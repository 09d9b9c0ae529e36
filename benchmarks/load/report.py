"""A run on the terminal: while it runs, and at its end."""

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
    "gap_ms": "gap between chunks, ms",
    "rtf": "real-time factor",
    "underrun_s": "underrun, s",
}


@contextmanager
def progress(seconds: float, console: Console) -> Iterator[Callable[[Run], None]]:
    """Shows the run on one line; yields what to call with it.

    The line is drawn only when called: a thread that draws by itself would take its time from the calls. It begins anew
    with every run that it is called with.
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
    heard = [answer.ttfa_s for answer in run.answers if answer.ttfa_s is not None]
    failed = sum(1 for answer in run.answers if answer.error)
    first = f", first audio {median(heard) * 1000:.0f} ms (median)" if heard else ""
    return f"{run.under_way} under way, {len(run.answers)} done, {failed} failed{first}"


def show_result(result: dict[str, Any], console: Console) -> None:
    """The overall figures as a table, and whether to believe them."""
    overall, generator = result["overall"], result["generator"]
    table = Table("", *POINTS, title=describe(result["load"]), title_justify="left")
    for key, name in NAMES.items():
        table.add_row(name, *[percentile(overall, key, point) for point in POINTS])
    console.print(table)
    facts = {
        "calls": counts(overall),
        "continuity": share(overall["continuity"]),
        "marks": f"the watermark was looked for in {result.get('watermarks_checked', 0)} answers",
        "audio": f"{overall['audio_s_per_s']:.2f} s per s",
        **{stage: f"busy {spent['busy_share']:.0%} of the time" for stage, spent in (result["stages"] or {}).items()},
        **{each["process"]: f"{each['cores']:.2f} cores" for each in result["processes"] if each["process"] == OTHERS},
        "generator": f"lag p99 {figure(generator['loop_lag_ms']['p99'])} ms, {generator['cpu_share']:.0%} of a core",
    }
    for name, said in facts.items():
        console.print(f"{name:<24} {said}", highlight=False)
    for words in first_words(result):
        console.print(f"{'a call failed':<24} {words}", style="red", highlight=False, markup=False)
    show_faults(result["why_invalid"], console)


def show_faults(faults: list[str], console: Console) -> None:
    """Why a result is not to be believed."""
    for fault in faults:
        console.print(f"{'NOT VALID':<24} {fault}", style="bold red", highlight=False)


def first_words(result: dict[str, Any]) -> list[str]:
    """What the first call of each kind of failure was told."""
    told: dict[str, str] = {}
    for call in result["calls"]:
        if call["error"]:
            told.setdefault(call["error"], ": ".join(filter(None, (call["error"], call["words"]))))
    return list(told.values())


def counts(overall: dict[str, Any]) -> str:
    """How many calls ended in what way."""
    said = f"{overall['calls']}: {overall['heard_to_the_end']} heard to the end, {overall['hung_up']} hung up"
    return f"{said}, failed: {failures(overall)}"


def failures(overall: dict[str, Any]) -> str:
    """How many calls failed of what."""
    return ", ".join(f"{count} {kind}" for kind, count in overall["errors"].items()) or "none"


def describe(load: dict[str, Any]) -> str:
    """A load in words."""
    calls = f"{load['streams']} streams" if load["streams"] else f"{load['rate']:g} calls per s, {load['arrivals']}"
    shares = {
        "a voice": load["voice_share"] if load["voices"] else 0,
        "a hang-up": load["cancel_share"],
        "a slow reader": load["slow_share"],
    }
    extra = [f"{share:.0%} with {what}" for what, share in shares.items() if share]
    chunks = f"chunks of {load['chunk_frames']} frames" if load["chunk_frames"] else "the server's chunks"
    return ", ".join(
        [calls, f"{load['seconds']:g} s", f"texts of {load['chars']} code points (median)", chunks, *extra]
    )


def figure(value: float | None) -> str:
    """A percentile that falls among the failed calls is no number."""
    return "failed" if value is None else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def percentile(overall: dict[str, Any], key: str, point: str) -> str:
    """A percentile of a load's overall figures.

    Without a number it fell among the failed calls, or there was nothing to count: nobody listened to the end, or
    nothing came in two chunks (a failed call has no gaps).
    """
    value = overall[key][point]
    return "-" if value is None and (key == "gap_ms" or not overall["errors"]) else figure(value)


def share(value: float | None) -> str:
    """A share in percent, never rounded up to all of it."""
    return "-" if value is None else f"{math.floor(value * 10_000) / 100:.2f} %"
