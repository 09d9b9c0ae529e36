"""A result and where it was measured, as one JSON file in `benchmarks/results/`."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


def machine() -> dict[str, Any]:
    """What a reader must know to place a figure."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write `results/<name>-<date>.json`: the figures, the machine, the date and the command."""
    now = datetime.now(timezone.utc)
    module = sys.modules["__main__"].__spec__
    command = " ".join(["python", "-m", module.name if module else "?", *sys.argv[1:]])
    record = {"date": now.isoformat(timespec="seconds"), "command": command, "machine": machine(), **figures}
    path = RESULTS / f"{name}-{now:%Y-%m-%d}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
