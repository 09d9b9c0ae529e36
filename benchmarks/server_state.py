"""What a running server says and uses: its metrics, its processes' memory and descriptors."""

from __future__ import annotations

import os
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from misotts.serve.local import RunningServer


def metrics(server: RunningServer) -> dict[str, float]:
    """Every `misotts_...` metric without labels, by name."""
    return read_metrics(f"http://127.0.0.1:{server.metrics_port}/metrics")


def read_metrics(url: str) -> dict[str, float]:
    """The same, of a server anywhere.

    Raises:
        OSError: nothing answers there.
    """
    with urllib.request.urlopen(url, timeout=5) as response:
        text = response.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(misotts_\w+) (\S+)$", text, re.MULTILINE)}


@dataclass(frozen=True)
class Usage:
    """What one process holds."""

    name: str
    memory_mib: float
    """Private memory: what would come back if it ended."""
    descriptors: int
    cpu_s: float
    """CPU time since it started, its ended children's not included."""


def usage(server: RunningServer) -> list[Usage]:
    """The launcher, tritonserver and the four stages."""
    found = [_usage(server.process.pid, "launcher")]
    for pid in _descendants(server.process.pid):
        words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
        stage = re.search(r"/(\w+)/1/model\.py", " ".join(words))
        found.append(_usage(pid, stage[1] if stage else Path(words[0]).name))
    return sorted(found, key=lambda each: each.name)


def _usage(pid: int, name: str) -> Usage:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    kib = sum(int(size) for size in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", rollup, re.MULTILINE))
    # After the name, which is in brackets and may hold spaces; user and system time are fields 14 and 15 of all.
    times = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    cpu_s = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return Usage(name, kib / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())), cpu_s)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(child) for path in children for child in path.read_text(encoding="utf-8").split()]
    return [*direct, *(deeper for child in direct for deeper in _descendants(child))]
