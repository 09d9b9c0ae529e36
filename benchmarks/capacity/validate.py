"""Compare the simulator with the real server: the same calls, predicted from a cost table and measured.

    python -m benchmarks.capacity.validate [--rates 2 4 6] [--seconds 20] [--rounds 3]

The stages are measured alone. Then come rounds of loads at each rate, and a sweep for the knee. Closed loops before and
after every load calibrate the table for it, because the speed of a shared machine changes within minutes. The same
calls are then simulated. The calls of all rounds are judged together. The spread of the rounds' measurements is
reported too: no prediction can be closer than that. Writes `benchmarks/results/validation-DATE.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.capacity.calibrate import Seen, calibrate, see
from benchmarks.capacity.measure import ROUNDS_TOGETHER, SIZES, measure_alone, measure_messages
from benchmarks.capacity.simulate import Simulated, simulate
from benchmarks.costs.table import CostTable
from benchmarks.load.drive import Run
from benchmarks.load.measure import Measured, Target, run_load
from benchmarks.load.plan import Load
from benchmarks.load.report import figure
from benchmarks.load.server_share import other_cores
from benchmarks.load.summary import invalid, pooled
from benchmarks.record import save
from benchmarks.sweep.knee import Objective
from benchmarks.sweep.measure import Sweep, Tried, on_server, sweep
from misotts.engines.interface import Limits
from misotts.serve.local import running_server

CALIBRATION_S = 5.0
"""Length of each closed loop."""
PRECISION = 0.15
"""Precision of the search for the knee."""
LIMITS = Limits()
ENGINE = ("--backbone=torch", "--depth=torch")
"""The server's engine is the one whose steps `measure_alone` measures."""


@dataclass(frozen=True)
class Round:
    """A load on the server, and the closed loops before and after it."""

    load: Load
    measured: Measured
    seen: list[Seen]


def validate(model: Path, rates: Sequence[float], seconds: float, rounds: int, objective: Objective) -> dict[str, Any]:
    """Return the whole comparison, ready for JSON."""
    alone = measure_alone(model, SIZES, ROUNDS_TOGETHER)
    with running_server(model, *ENGINE) as server:
        target = Target.of(server)
        hop_ms, send_ms = measure_messages(server.url)
        alone = replace(alone, hop_ms=hop_ms, send_ms=send_ms)
        measured = measure_rounds(target, rates, seconds, rounds)
        search = Sweep(objective, Load(rate=2.0, seconds=seconds, seed=100), repeats=1, precision=PRECISION)
        knee, seen = measure_knee(target, search)
    fitted, _ = calibrate(alone, seen, LIMITS)
    predicted = sweep(search, lambda load: Tried(simulate(load, fitted, LIMITS).answers), lambda _: None)
    loads = [compare_rounds([each for each in measured if each.load.rate == rate], alone) for rate in rates]
    for load in loads:
        show(load)
    return {
        "seconds": seconds,
        "rounds": rounds,
        "loads": loads,
        "objective": asdict(objective),
        "knee": {"predicted": predicted["knee"], "measured": knee["knee"]},
    }


def measure_rounds(target: Target, rates: Sequence[float], seconds: float, rounds: int) -> list[Round]:
    """Run every rate in every round, each round with other calls, between closed loops."""
    measured = []
    before = see(target, seconds=CALIBRATION_S)
    for seed in range(rounds):
        for rate in rates:
            load = Load(rate=rate, seconds=seconds, seed=seed)
            found = run_load(load, target, _silent)
            after = see(target, seconds=CALIBRATION_S)
            measured.append(Round(load, found, [*before, *after]))
            before = after
    return measured


def measure_knee(target: Target, search: Sweep) -> tuple[dict[str, Any], list[Seen]]:
    """Return the measured sweep, and the closed loops from before every rate that it tried."""
    attempt, seen = on_server(target, _silent), []

    def calibrated(load: Load) -> Tried:
        seen.extend(see(target, seconds=CALIBRATION_S))
        return attempt(load)

    def show_point(point: dict[str, Any]) -> None:
        print(f"{point['rate']:g} calls per s: {', '.join(point['misses']) or 'holds'}", flush=True)

    return sweep(search, calibrated, show_point), seen


def compare_rounds(rounds: Sequence[Round], alone: CostTable) -> dict[str, Any]:
    """Return the rounds of one rate, predicted and measured."""
    seconds = rounds[0].load.seconds
    runs = [simulate(each.load, calibrate(alone, each.seen, LIMITS)[0], LIMITS) for each in rounds]
    answers = [each.measured.run.answers for each in rounds]
    measured = pooled(answers, seconds)
    others = [other_cores(each.measured.processes()) or 0.0 for each in rounds]
    return {
        "rate": rounds[0].load.rate,
        "calls": measured["calls"],
        "errors": measured["errors"],
        "why_invalid": [fault for each in rounds for fault in invalid(each.measured.run)],
        "other_cores": round(fmean(others), 3),
        **compare(pooled([run.answers for run in runs], seconds), measured),
        **_stages(runs, [each.measured for each in rounds]),
        "rounds_measured": {"ttfa_p95_ms": [pooled([each], seconds)["ttfa_ms"]["p95"] for each in answers]},
    }


def compare(predicted: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a load and the relative error of the prediction: 0.1 is 10 % too high."""
    pairs = {
        "ttfa_p50_ms": (predicted["ttfa_ms"]["p50"], measured["ttfa_ms"]["p50"]),
        "ttfa_p95_ms": (predicted["ttfa_ms"]["p95"], measured["ttfa_ms"]["p95"]),
        "audio_s_per_s": (predicted["audio_s_per_s"], measured["audio_s_per_s"]),
        "rtf_p50": (predicted["rtf"]["p50"], measured["rtf"]["p50"]),
        "underrun_p50_s": (predicted["underrun_s"]["p50"], measured["underrun_s"]["p50"]),
        "continuity": (predicted["continuity"], measured["continuity"]),
    }
    return {
        name: {"predicted": one, "measured": two, "off": round(one / two - 1, 3) if one is not None and two else None}
        for name, (one, two) in pairs.items()
    }


def _stages(runs: Sequence[Simulated], measured: Sequence[Measured]) -> dict[str, Any]:
    """Return the stages' busy shares and the mean batch of generate, averaged over the rounds."""
    found = [each.stages() or {} for each in measured]
    shares = {stage: [each[stage]["busy_share"] for each in found] for stage in found[0]}

    def pair(predicted: Sequence[float], measured: Sequence[float], digits: int) -> dict[str, float]:
        return {"predicted": round(fmean(predicted), digits), "measured": round(fmean(measured), digits)}

    return {
        "busy_share": {
            stage: pair([run.busy[stage] / run.seconds for run in runs], busy, 3) for stage, busy in shares.items()
        },
        "mean_batch": pair([run.mean_batch for run in runs], [each["generate"]["mean_batch"] for each in found], 2),
    }


def _silent(_: Run) -> None:
    """Show no progress: it would take its time from a measurement on two cores."""


def show(load: dict[str, Any]) -> None:
    print(f"{load['rate']:g} calls per s, other processes took {load['other_cores']} cores; predicted / measured:")
    for name, pair in load.items():
        if isinstance(pair, dict) and pair.get("off") is not None:
            print(f"    {name:<16} {figure(pair['predicted']):>8} / {figure(pair['measured']):>8} ({pair['off']:+.0%})")
    print(f"    busy {load['busy_share']}; TTFA p95 of each round {load['rounds_measured']['ttfa_p95_ms']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    parser.add_argument("--rates", type=float, nargs="+", default=[2.0, 4.0, 6.0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ttfa-p95-ms", type=float, default=400.0)
    parser.add_argument("--continuity", type=float, default=0.5)
    given = parser.parse_args()
    objective = Objective(given.ttfa_p95_ms, given.continuity)
    print(save("validation", validate(given.model, given.rates, given.seconds, given.rounds, objective)))


if __name__ == "__main__":
    main()
