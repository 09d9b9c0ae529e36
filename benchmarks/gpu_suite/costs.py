"""Results → the cost table that `misotts capacity` reads; the format is told in `benchmarks/capacity/cost.py`.

What a GPU without Triton and without the public tokenizer cannot say is marked under `not_measured_here`.
"""

from __future__ import annotations

from typing import Any

from benchmarks.costs.engines import ENGINES
from benchmarks.costs.gpus import FIXED_POSITIONS, HOP_MS, POSITIONS_PER_CHAR, SEND_MS
from benchmarks.costs.table import FORMAT
from benchmarks.gpu_suite.suite import Suite
from misotts.engines.kv_memory import BLOCK_SIZE

SHARED_GPU = [1.0, 0.5, 0.3333]
"""Speed of each of one, two and three stages that share the device, as if it did one thing at a time."""

Row = dict[str, Any]


def cost_table(suite: Suite, result: dict[str, Any]) -> dict[str, Any] | None:
    """The table, with the last engine of the list that was measured; None where a part of it is missing."""
    engine = next((name for name in reversed(ENGINES) if _rows(suite, f"generate, {name}", "step")), None)
    if engine is None:
        return None
    generate = f"generate, {engine}"
    prefill = [row for row in _rows(suite, generate, "prefill") if "ms" in row]
    parts = {
        "step": _grid(_rows(suite, generate, "step"), "batch", "context"),
        "prefill": {"positions": [row["positions"] for row in prefill], "ms": [row["ms"] for row in prefill]},
        "decode": _grid(_rows(suite, "decode", "decode"), "rows", "frames"),
        "watermark": _grid(_rows(suite, "watermark", "watermark"), "rows", "frames"),
    }
    values = suite.sections[generate]["values"]
    prompt_ms = suite.sections.get("road", {}).get("values", {}).get("prompt_ms")
    if not prefill or None in parts.values() or prompt_ms is None or "kv_blocks_that_fit" not in values:
        return None
    return {
        "format": FORMAT,
        "name": f"{result['machine'].get('gpu', 'CPU')}, {result['model']}, {values['dtype']}, engine {engine}",
        "source": "measured",
        **{key: result[key] for key in ("date", "command", "machine")},
        **parts,
        "prompt": {"ms": prompt_ms, "positions_per_char": POSITIONS_PER_CHAR, "fixed_positions": FIXED_POSITIONS},
        "hop_ms": HOP_MS,
        "send_ms": SEND_MS,
        "network_ms": 0.0,
        "speed_when_busy": SHARED_GPU,
        "overlaps": suite.device == "cuda",
        "hold_back_frames": suite.sections["road"]["values"]["hold_back_frames"],
        "block_size": BLOCK_SIZE,
        "kv_blocks": values["kv_blocks_that_fit"],
        "not_measured_here": ["hop_ms", "send_ms", "network_ms", "speed_when_busy", "prompt.positions_per_char"],
    }


def _rows(suite: Suite, section: str, table: str) -> list[Row]:
    return suite.sections.get(section, {}).get("tables", {}).get(table, [])


def _grid(rows: list[Row], down: str, across: str) -> dict[str, Any] | None:
    """A whole rectangle of times: the columns that every row of the first column has; None if there is none.

    A column that was not measured to the last row (memory or time did not suffice) is left out.
    """
    ms = {(row[down], row[across]): row["ms"] for row in rows if "ms" in row}
    downs = sorted({place[0] for place in ms})
    acrosses = sorted({place[1] for place in ms})
    whole = [each for each in acrosses if all((place, each) in ms for place in downs)]
    if not whole:
        return None
    return {down: downs, across: whole, "ms": [[ms[place, each] for each in whole] for place in downs]}
