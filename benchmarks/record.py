"""Results as JSON files, each with its machine, date and command."""

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
    """Return the properties of this machine that its figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    return {"cpu": model[1] if model else platform.processor(), "cores": cores, "python": platform.python_version()}


def record(figures: dict[str, Any]) -> dict[str, Any]:
    """Return the figures with the date, the command and the machine."""
    now = datetime.now(timezone.utc)
    return {"date": now.isoformat(timespec="seconds"), "command": _command(), "machine": machine(), **figures}


def write(path: Path, result: dict[str, Any]) -> Path:
    """Write a result; an innermost list or object takes one line if it fits."""

    def on_one_line(match: re.Match[str]) -> str:
        line = re.sub(r"\s*\n\s*", " ", match[0])
        return line if len(line) <= LINE_LENGTH else match[0]

    text = re.sub(r"[\[{][^\[\]{}]*[\]}]", on_one_line, json.dumps(result, indent=1, allow_nan=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write the record of a summary to `results/<name>-<date>.json`."""
    result = record(figures)
    return write(RESULTS / f"{name}-{result['date'][:10]}.json", result)


def _command() -> str:
    module = sys.modules["__main__"].__spec__
    program = f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]])
