"""The functions in which the Python processes of a server spend their time, by samples of py-spy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WAITS = {
    "",  # Triton's own code
    *("Condition.wait", "DatagramReceiver._run", "EpollSelector.select", "SocketIO.readinto", "Thread.run", "_worker"),
}
"""Functions in which threads wait: py-spy cannot tell a waiting thread on every machine."""
RATE = 200
TOP = 12


def start(pids: Mapping[str, int], seconds: float, folder: Path) -> list[subprocess.Popen[bytes]]:
    """Begin to sample processes, by name, for `seconds`."""
    binary = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    options = ["record", f"--duration={seconds:.0f}", f"--rate={RATE}", "--format=raw"]
    commands = [[binary, *options, f"--pid={pid}", f"--output={folder / name}"] for name, pid in pids.items()]
    return [subprocess.Popen(each, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for each in commands]


def read(names: list[str], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return for each process its functions with the largest shares of its samples, without those they called."""
    found = {}
    for name in names:
        counts: Counter[str] = Counter()
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            stack, _, count = line.rpartition(" ")
            frame = stack.rpartition(";")[2]
            if frame.partition(" (")[0] not in WAITS:
                counts[_function(frame)] += int(count)
        total = max(sum(counts.values()), 1)
        found[name] = [
            {"function": function, "share": round(count / total, 3)} for function, count in counts.most_common(TOP)
        ]
    return found


def _function(frame: str) -> str:
    """`send (/a/misotts/serve/stage/tensors.py:45)` → `send (misotts/serve/stage/tensors.py)`."""
    function, _, place = frame.partition(" (")
    parts = Path(place.rpartition(":")[0]).parts
    for root in ("misotts", "gateway", "site-packages", "python3.11"):
        if root in parts:
            return f"{function} ({'/'.join(parts[parts.index(root) + (root != 'misotts') :])})"
    return f"{function} ({'/'.join(parts[-2:])})"
