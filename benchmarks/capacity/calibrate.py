"""From stages timed alone to stages in a server: what Triton, the other stages and cold caches add.

A stage alone in a loop of its own is faster than in the server, where between two of its calls others have used the
core's caches, where threads of one process wait for each other's interpreter lock, and where a chunk passes through
Triton. Closed loops of few callers on the real server tell by how much: each stage's grid is scaled so that its busy
time for a second of audio comes out, and the hop so that the first audio of a lone caller does. Nothing else is fitted:
queues, batches, contention and whatever comes of them at other loads are the simulation's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from benchmarks.capacity.simulate import Simulated, simulate
from benchmarks.costs.table import CostTable, Grid, Line
from benchmarks.load.measure import Target, run_load
from benchmarks.load.plan import Load
from benchmarks.load.summary import overall
from misotts.engines.interface import Limits

CALLERS = (1, 3, 8)
SECONDS = 10.0
ROUNDS = 4
HOPS = 5
"""From a caller to its first audio: to prompt, generate, decode, watermark and back."""
SCALED = ("generate", "decode", "watermark")


@dataclass(frozen=True)
class Seen:
    """A closed loop on the real server."""

    load: Load
    busy_ms: dict[str, float]
    """Of each stage, for a second of audio."""
    ttfa_ms: float
    """Median."""


def see(target: Target, callers: Sequence[int] = CALLERS, seconds: float = SECONDS) -> list[Seen]:
    """Run the closed loops.

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
    """The table as it is in a server, and the factors by which its grids were scaled."""
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
        fitted = _scaled(costs, factors, max(fitted.hop_ms + late_ms / HOPS, 0.0))
    return fitted, {**{stage: round(factor, 3) for stage, factor in factors.items()}, "alone_hop_ms": costs.hop_ms}


def _busy_ms(run: Simulated, stage: str) -> float:
    return run.busy[stage] * 1000 / sum(answer.audio_s for answer in run.answers)


def _scaled(costs: CostTable, factors: dict[str, float], hop_ms: float) -> CostTable:
    def grid(grid: Grid, stage: str) -> Grid:
        return replace(grid, ms=[[round(ms * factors[stage], 4) for ms in row] for row in grid.ms])

    prefill = Line(costs.prefill.points, [round(ms * factors["generate"], 4) for ms in costs.prefill.ms])
    return replace(
        costs,
        step=grid(costs.step, "generate"),
        prefill=prefill,
        decode=grid(costs.decode, "decode"),
        watermark=grid(costs.watermark, "watermark"),
        hop_ms=round(hop_ms, 4),
    )
