"""A load against a server, from the warm-up to the figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.load.caller import Answer
from benchmarks.load.drive import Run, drive
from benchmarks.load.openai import OpenAiServer
from benchmarks.load.plan import Load
from benchmarks.load.server_share import Snapshot, processes, snapshot, stages
from benchmarks.load.summary import summarise
from misotts.config import SAMPLE_RATE
from misotts.serve.local import RunningServer
from misotts.watermark.detector import Detector, Finding
from misotts.watermark.key import REFERENCE_KEY

WATERMARK_S = 2.1
"""The watermark is looked for in audio of at least this length: shorter audio may hold too little of the message."""


@dataclass(frozen=True)
class Target:
    """A server to measure."""

    url: str
    """Host and gRPC port."""
    metrics_url: str
    server: RunningServer | None = None
    """The server's processes; None for a server that was not started here."""
    detector: Detector | None = None
    """The detector for its watermark; None where the key is not known."""
    key: bytes = REFERENCE_KEY
    http: OpenAiServer | None = None
    """The server, if it is called by OpenAI's HTTP."""

    @classmethod
    def of(cls, server: RunningServer, detector: Detector | None = None, key: bytes = REFERENCE_KEY) -> Target:
        return cls(server.url, server.metrics_url, server, detector, key)


@dataclass(frozen=True)
class Measured:
    """A run, and the server before and after it."""

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


def run_load(load: Load, target: Target, show: Callable[[Run], None]) -> Measured:
    """Warm the server up and make the calls of a load; `show` gets the run twice a second.

    Raises:
        MisoError: the server does not answer even one call at a time.
    """
    before: list[Snapshot] = []

    def begin() -> None:
        before.append(snapshot(target.metrics_url, target.server))

    run = asyncio.run(drive(load, target.url, begin, show, target.http))
    return Measured(run, before[0], snapshot(target.metrics_url, target.server))


def measure(load: Load, target: Target, show: Callable[[Run], None]) -> dict[str, Any]:
    """Return all figures of a load, ready for JSON; see `run_load`.

    Raises:
        MisoError: the server does not answer even one call at a time.
    """
    measured = run_load(load, target, show)
    # After the run, so that the detector takes no time from the calls.
    checked = check_watermarks(measured.run.answers, target.detector, target.key) if target.detector else 0
    figures = summarise(measured.run, load)
    per_call = figures.pop("calls")
    return {
        "load": asdict(load),
        **figures,
        "watermarks_checked": checked,
        "stages": measured.stages(),
        "processes": measured.processes(),
        "calls": per_call,
    }


def check_watermarks(answers: Sequence[Answer], detector: Detector, key: bytes) -> int:
    """Mark answers without a watermark, or with another key's, as failed, `UNMARKED`; return the number checked."""
    judged = [each for each in answers if each.audio and each.audio_s >= WATERMARK_S and not each.error]
    for answer in judged:
        verdict = detector.check(np.concatenate(answer.audio), SAMPLE_RATE, key)
        if not verdict.marked or verdict.finding is Finding.ANOTHER_KEY:
            answer.error = "UNMARKED"
    return len(judged)
