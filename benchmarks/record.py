"""A result and where it was measured, as one JSON file in `benchmarks/results/`."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
LINE_LENGTH = 240


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


def record(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures with the date, the command and the machine."""
    now = datetime.now(timezone.utc)
    return {"date": now.isoformat(timespec="seconds"), "command": _command(), "machine": machine(), **figures}


def write(path: Path, result: dict[str, Any]) -> Path:
    """Write a result; a list or an object without others in it takes one line where it fits."""

    def on_one_line(match: re.Match[str]) -> str:
        line = re.sub(r"\s*\n\s*", " ", match[0])
        return line if len(line) <= LINE_LENGTH else match[0]

    text = re.sub(r"[\[{][^\[\]{}]*[\]}]", on_one_line, json.dumps(result, indent=1, allow_nan=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write `results/<name>-<date>.json`: the figures, the machine, the date and the command."""
    result = record(figures)
    return write(RESULTS / f"{name}-{result['date'][:10]}.json", result)


def _command() -> str:
    module = sys.modules["__main__"].__spec__
    program = f"python -m {module.name}" if module else Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]])
