"""Two results side by side: their figures, and the differences of their loads and machines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from benchmarks.load.report import NAMES, describe, failures, figure, percentile, share

POINTS = ("p50", "p95", "p99")


@dataclass(frozen=True)
class Row:
    """A figure of two results, in words."""

    name: str
    first: str
    second: str
    change: str = ""


def read(path: Path) -> dict[str, Any]:
    """Load a result of `misotts bench load`.

    Raises:
        ValueError: the file holds none.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(result, dict) or not {"load", "overall", "calls"} <= result.keys():
        raise ValueError(f"{path} is not a result of misotts bench load")
    return result


def rows(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    """Return the overall figures of both."""
    one, two = first["overall"], second["overall"]
    busy = "busy_ms_per_audio_s"
    return [
        *(
            Row(
                f"{name}, {point}",
                percentile(one, key, point),
                percentile(two, key, point),
                _change(one.get(key, {}).get(point), two.get(key, {}).get(point)),
            )
            for key, name in NAMES.items()
            for point in POINTS
        ),
        Row("continuity", share(one["continuity"]), share(two["continuity"])),
        _row("audio, s per s", one["audio_s_per_s"], two["audio_s_per_s"]),
        _row("calls", one["calls"], two["calls"]),
        Row("failed", failures(one), failures(two)),
        Row("valid", *["yes" if each["valid"] else "NO" for each in (first, second)]),
        *(
            _row(f"{stage}, ms busy per s of audio", spent[busy], second["stages"][stage][busy])
            for stage, spent in (first["stages"] or {}).items()
            if second["stages"]
        ),
    ]


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return the settings of load and machine that differ."""
    return [
        f"{name}: {first[part].get(name)} and {second[part].get(name)}"
        for part in ("load", "machine")
        for name in {**first[part], **second[part]}
        if first[part].get(name) != second[part].get(name)
    ]


def show_comparison(first: dict[str, Any], second: dict[str, Any], names: tuple[str, str], console: Console) -> None:
    """Print both results as a table."""
    table = Table(Column(no_wrap=True), *names, "change")
    for row in rows(first, second):
        table.add_row(row.name, row.first, row.second, row.change)
    for name, result in zip(names, (first, second), strict=True):
        console.print(f"{name}: {result['date']}, {describe(result['load'])}", highlight=False)
    console.print(table)
    for difference in differences(first, second):
        console.print(f"not the same: {difference}", style="yellow", highlight=False)


def _row(name: str, first: float | None, second: float | None) -> Row:
    return Row(name, figure(first), figure(second), _change(first, second))


def _change(first: float | None, second: float | None) -> str:
    return f"{second / first - 1:+.0%}" if first and second is not None else ""
