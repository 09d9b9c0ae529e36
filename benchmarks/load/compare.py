"""Two results side by side: what was different in the loads, and what came of it."""

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
    """A result that `misotts bench load` has written.

    Raises:
        ValueError: it is none.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(result, dict) or not {"load", "overall", "calls"} <= result.keys():
        raise ValueError(f"{path} is no result of misotts bench load")
    return result


def rows(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    """The overall figures of both."""
    one, two = first["overall"], second["overall"]
    percentiles = [
        Row(
            f"{name}, {point}",
            percentile(one, key, point),
            percentile(two, key, point),
            _change(one[key][point], two[key][point]),
        )
        for key, name in NAMES.items()
        for point in POINTS
    ]
    return [
        *percentiles,
        Row("continuity", share(one["continuity"]), share(two["continuity"])),
        _row("audio, s per s", one["audio_s_per_s"], two["audio_s_per_s"]),
        _row("calls", one["calls"], two["calls"]),
        Row("failed", failures(one), failures(two)),
        Row("valid", *["yes" if each["valid"] else "NO" for each in (first, second)]),
        *_stage_rows(first["stages"], second["stages"]),
    ]


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What was not the same: settings of the load, the machine."""
    pairs = {**_pairs(first["load"], second["load"]), **_pairs(first["machine"], second["machine"])}
    return [f"{name}: {one} and {two}" for name, (one, two) in pairs.items() if one != two]


def show_comparison(first: dict[str, Any], second: dict[str, Any], names: tuple[str, str], console: Console) -> None:
    """The two as a table."""
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


def _stage_rows(first: dict[str, Any] | None, second: dict[str, Any] | None) -> list[Row]:
    key = "busy_ms_per_audio_s"
    return [
        _row(f"{stage}, ms busy per s of audio", first[stage][key], second[stage][key])
        for stage in (first or {})
        if first and second
    ]


def _pairs(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (first.get(name), second.get(name)) for name in {**first, **second}}
