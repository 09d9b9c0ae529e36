"""Results → Markdown: first what is wrong, then every section's tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

HEADS = {
    "bytes_ms": "floor: bytes, ms",
    "flops_ms": "floor: FLOP, ms",
    "x_floor": "x floor",
    "host_ms": "host, ms",
    "predicted_ms": "predicted, ms",
    "low": "lowest",
    "high": "highest",
}


def markdown(result: dict[str, Any]) -> str:
    """Return one page."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: dict[str, Any]) -> Iterator[str]:
    machine, versions = _figures(result["machine"]), _figures(result["versions"])
    yield f"# GPU suite: {result['machine'].get('gpu', 'rehearsal on a CPU')}, {result['date'][:10]}"
    yield from ("", f"{result['model']}. {machine}. {versions}. `{result['command']}`, {result['date']}.", "")
    yield from [f"- WRONG: {failure}" for failure in result["failures"]] or ["Nothing was found wrong."]
    for name, section in result["sections"].items():
        clocks = "".join(f"; {name} {low:g} to {high:g}" for name, (low, high) in section.get("clocks", {}).items())
        yield from ("", f"## {name}", "", f"{section['state']}, {section['seconds']} s{clocks}", "")
        for check, found in section.get("checks", {}).items():
            figures = _figures({key: value for key, value in found.items() if key != "ok"})
            yield f"- {'right' if found['ok'] else 'WRONG'}: {check} ({figures})"
        for title, rows in section.get("tables", {}).items():
            yield from ("", f"**{title}**", "", *_table(rows))
        for title, value in section.get("values", {}).items():
            if title != "rates":  # its rows say the same
                yield from ("", f"{title}: {_figures(value) if isinstance(value, dict) else value}")


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield "| " + " | ".join(HEADS.get(column, column) for column in columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(str(row.get(column, "")) for column in columns) + " |"


def _figures(values: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
