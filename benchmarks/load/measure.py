"""A load against a server, from the warm-up to the figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load.drive import Run, drive
from benchmarks.load.plan import Load
from benchmarks.load.server_share import Snapshot, processes, snapshot, stages
from benchmarks.load.summary import summarise
from demo.server import RunningServer


@dataclass(frozen=True)
class Target:
    """A server to measure."""

    url: str
    """Host and gRPC port."""
    metrics_url: str
    server: RunningServer | None = None
    """Where its processes can be seen."""

    @classmethod
    def of(cls, server: RunningServer) -> Target:
        return cls(server.url, f"http://127.0.0.1:{server.metrics_port}/metrics", server)


def measure(load: Load, target: Target, show: Callable[[Run], None]) -> dict[str, Any]:
    """All figures of a load, ready for JSON; `show` sees the run twice a second.

    Raises:
        MisoError: the server does not answer even one call at a time.
    """
    before: list[Snapshot] = []
    run = asyncio.run(drive(load, target.url, lambda: before.append(snapshot(target.metrics_url, target.server)), show))
    after = snapshot(target.metrics_url, target.server)
    heard_s = sum(answer.audio_s for answer in run.answers)
    figures = summarise(run, load.seconds)
    per_call = figures.pop("calls")
    return {
        "load": asdict(load),
        **figures,
        "stages": stages(before[0], after, run.seconds, heard_s),
        "processes": processes(before[0], after, run.seconds, run.cpu_s),
        "calls": per_call,
    }
