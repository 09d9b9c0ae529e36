"""A short `make soak` on the shared server."""

from __future__ import annotations

from benchmarks.soak import growth, soak
from benchmarks.usage import usage
from misotts.serve.local import RunningServer


def test_callers_that_leave_early_leave_nothing_behind(server: RunningServer) -> None:
    assert soak(server, requests=120, killed=1, seed=2).faults == []  # the same calls, so the same peaks of memory
    before = usage(server)
    outcome = soak(server, requests=120, killed=2, seed=2)
    assert outcome.faults == []
    assert outcome.callers["listened"] > 30
    assert outcome.callers["hung up"] > 15
    assert outcome.callers["killed"] == 2
    assert growth(before, usage(server)) == []
