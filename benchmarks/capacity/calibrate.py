"""From stages timed alone to stages in a server, where Triton, the other stages and cold caches cost time too.

A stage alone in a loop is faster than in the server, where other threads use the core's caches between two of its
calls, threads of one process wait for the interpreter lock, and every chunk passes through Triton. Closed loops of few
callers on the real server measure the difference. Each stage's grid is scaled until its busy time for a second of audio
is the measured one, and the hop until the time to first audio of a single caller is. Nothing else is fitted: queues,
batches and contention at other loads are the simulation's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from benchmarks.capacity.simulate import Simulated, simulate
from benchmarks.costs.table import CostTable
from benchmarks.load.measure import Target, run_load
from benchmarks.load.plan import Load
from benchmarks.load.summary import overall
from misotts.engines.interface import Limits

CALLERS = (1, 3, 8)
SECONDS = 10.0
ROUNDS = 4
HOPS = 5
"""Messages from a request to its first audio: to prompt, generate, decode, watermark and back."""
SCALED = ("generate", "decode", "watermark")


@dataclass(frozen=True)
class Seen:
    """A closed loop on the real server."""

    load: Load
    busy_ms: dict[str, float]
    """Busy time of each stage for a second of audio."""
    ttfa_ms: float
    """Median."""


def see(target: Target, callers: Sequence[int] = CALLERS, seconds: float = SECONDS) -> list[Seen]:
    """Run the closed loops and return the measurements.

    Raises:
        RuntimeError: the server's metrics cannot be read, or calls failed.
    """
    return [_see(target, Load(streams=count, seconds=seconds)) for count in callers]


def _see(target: Target, load: Load) -> Seen:
    measured = run_load(load, target, lambda _: None)
    stages, figures = measured.stages(), overall(measured.run.answers, load.seconds)
    if not stages or figures["errors"]:
        raise RuntimeError(f"a calibration needs metrics and answers: {figures['errors'] or 'no metrics'}")
    return Seen(load, {stage: stages[stage]["busy_ms_per_audio_s"] for stage in SCALED}, figures["ttfa_ms"]["p50"])


def calibrate(costs: CostTable, seen: Sequence[Seen], limits: Limits) -> tuple[CostTable, dict[str, Any]]:
    """Return the table of the stages in a server, and the factors by which its grids were scaled."""
    factors = dict.fromkeys(SCALED, 1.0)
    fitted = costs
    for _ in range(ROUNDS):  # a slower stage changes the others' batches
        found = [simulate(each.load, fitted, limits) for each in seen]
        for stage in SCALED:
            factors[stage] *= fmean(
                each.busy_ms[stage] / _busy_ms(run, stage) for each, run in zip(seen, found, strict=True)
            )
        late_ms = fmean(
            each.ttfa_ms - (overall(run.answers, each.load.seconds)["ttfa_ms"]["p50"] or 0.0)
            for each, run in zip(seen, found, strict=True)
            if each.load.streams == min(CALLERS)
        )
        hop_ms = max(fitted.hop_ms + late_ms / HOPS, 0.0)
        fitted = replace(costs.times(**factors), hop_ms=round(hop_ms, 4))
    return fitted, {**{stage: round(factor, 3) for stage, factor in factors.items()}, "alone_hop_ms": costs.hop_ms}


def _busy_ms(run: Simulated, stage: str) -> float:
    return run.busy[stage] * 1000 / sum(answer.audio_s for answer in run.answers)
