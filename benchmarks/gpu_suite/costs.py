"""Results → the cost table of `misotts capacity`; `benchmarks/costs/table.py` describes its format.

Figures that need Triton or the public tokenizer are listed under `not_measured_here`.
"""

from __future__ import annotations

from typing import Any

from benchmarks.costs.engines import ENGINES
from benchmarks.costs.gpus import FIXED_POSITIONS, HOP_MS, POSITIONS_PER_CHAR, SEND_MS, SEND_OUT_MS
from benchmarks.costs.table import CostError, CostTable, PromptCost, measured_parts
from benchmarks.gpu_suite.suite import Suite
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.hold_back import HoldBack

SHARED_GPU = [1.0, 0.5, 0.3333]
"""Speed of each of one, two and three stages on one device, as if it did one thing at a time."""


def cost_table(suite: Suite, result: dict[str, Any]) -> dict[str, Any] | None:
    """Return the table for the last engine of the list that was measured; None where a part of it is missing."""

    def find(section: str, kind: str) -> dict[str, Any]:
        return suite.sections.get(section, {}).get(kind, {})

    engine = next((name for name in reversed(ENGINES) if "step" in find(f"generate, {name}", "tables")), None)
    generate, pipeline = find(f"generate, {engine}", "values"), find("pipeline", "values")
    sections = (f"generate, {engine}", "decode", "watermark")
    try:
        table = CostTable(
            name=f"{result['machine'].get('gpu', 'CPU')}, {result['model']}, {generate['dtype']}, engine {engine}",
            source="measured",
            **measured_parts({name: rows for section in sections for name, rows in find(section, "tables").items()}),
            prompt=PromptCost(pipeline["prompt_ms"], POSITIONS_PER_CHAR, FIXED_POSITIONS),
            hop_ms=HOP_MS,
            send_ms=SEND_MS,
            send_out_ms=SEND_OUT_MS,
            network_ms=0.0,
            speed_when_busy=SHARED_GPU,
            overlaps=suite.device == "cuda",
            hold_back=HoldBack(**pipeline["hold_back"]),
            block_size=BLOCK_SIZE,
            kv_blocks=generate["kv_blocks_that_fit"],
            not_measured_here=[
                "hop_ms",
                "send_ms",
                "send_out_ms",
                "network_ms",
                "speed_when_busy",
                "prompt.positions_per_char",
            ],
        )
    except (KeyError, CostError):
        return None
    return {**table.to_json(), **{key: result[key] for key in ("date", "command", "machine")}}
