"""A load against a server, from the warm-up to the figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load.drive import Run, drive
from benchmarks.load.marks import check_marks
from benchmarks.load.plan import Load
from benchmarks.load.server_share import Snapshot, processes, snapshot, stages
from benchmarks.load.summary import summarise
from misotts.serve.local import RunningServer
from misotts.watermark.detector import Detector
from misotts.watermark.key import REFERENCE_KEY


@dataclass(frozen=True)
class Target:
    """A server to measure."""

    url: str
    """Host and gRPC port."""
    metrics_url: str
    server: RunningServer | None = None
    """Where its processes can be seen."""
    detector: Detector | None = None
    """What looks for its watermark; None where its key is not known."""
    key: bytes = REFERENCE_KEY

    @classmethod
    def of(cls, server: RunningServer, detector: Detector | None = None) -> Target:
        return cls(server.url, f"http://127.0.0.1:{server.metrics_port}/metrics", server, detector)


@dataclass(frozen=True)
class Heard:
    """A load as it was met, and the server before and after it."""

    run: Run
    before: Snapshot
    after: Snapshot

    def stages(self) -> dict[str, Any] | None:
        """See `benchmarks.load.server_share.stages`."""
        audio_s = sum(answer.audio_s for answer in self.run.answers)
        return stages(self.before, self.after, self.run.seconds, audio_s)

    def processes(self) -> list[dict[str, Any]]:
        """See `benchmarks.load.server_share.processes`."""
        return processes(self.before, self.after, self.run.seconds, self.run.cpu_s)


def hear(load: Load, target: Target, show: Callable[[Run], None]) -> Heard:
    """Warm the server up and make the calls of a load; `show` sees the run twice a second.

    Raises:
        MisoError: the server does not answer even one call at a time.
    """
    before: list[Snapshot] = []
    run = asyncio.run(drive(load, target.url, lambda: before.append(snapshot(target.metrics_url, target.server)), show))
    return Heard(run, before[0], snapshot(target.metrics_url, target.server))


def measure(load: Load, target: Target, show: Callable[[Run], None]) -> dict[str, Any]:
    """All figures of a load, ready for JSON; see `hear`.

    Raises:
        MisoError: the server does not answer even one call at a time.
    """
    heard = hear(load, target, show)
    checked = check_marks(heard.run.answers, target.detector, target.key) if target.detector else 0
    figures = summarise(heard.run, load.seconds)
    per_call = figures.pop("calls")
    return {
        "load": asdict(load),
        **figures,
        "watermarks_checked": checked,
        "stages": heard.stages(),
        "processes": heard.processes(),
        "calls": per_call,
    }
