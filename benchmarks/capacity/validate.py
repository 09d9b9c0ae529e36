"""Hold the simulator against the real server: the same calls, predicted from a cost table and measured, side by side.

    python -m benchmarks.capacity.validate [--rates 0.5 1.2 2] [--seconds 20] [--rounds 3]

Measures the stages alone; then, in rounds, loads at each rate; then a sweep for the knee. Closed loops before and after
every load calibrate the table for it, since what else a machine does comes and goes within minutes and no table knows
of it. Only then are the same calls simulated. The calls of all rounds are judged together; beside them stands how far
the rounds' measurements are apart, which no prediction can beat. Writes `benchmarks/results/validation-DATE.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.capacity.calibrate import Seen, calibrate, see
from benchmarks.capacity.cost import CostTable
from benchmarks.capacity.measure import REPEATS, ROUNDS_TOGETHER, measure_alone, measure_messages
from benchmarks.capacity.simulate import Simulated, simulate
from benchmarks.load.drive import Run
from benchmarks.load.measure import Heard, Target, hear
from benchmarks.load.plan import Load
from benchmarks.load.report import figure
from benchmarks.load.server_share import other_cores
from benchmarks.load.summary import invalid, pooled
from benchmarks.record import save
from benchmarks.sweep.measure import Sweep, Tried, Try, on_server, sweep
from benchmarks.sweep.objective import Objective
from misotts.engines.interface import Limits
from misotts.serve.local import running_server

CALIBRATION_S = 5.0
"""Of each closed loop."""
PRECISION = 0.15
"""To which the knee is searched."""
LIMITS = Limits()


@dataclass(frozen=True)
class Met:
    """A load that the server has met, and the closed loops around it."""

    load: Load
    heard: Heard
    seen: list[Seen]


def validate(model: Path, rates: Sequence[float], seconds: float, rounds: int, objective: Objective) -> dict[str, Any]:
    """The whole comparison, ready for JSON."""
    alone = measure_alone(model, REPEATS, ROUNDS_TOGETHER)
    with running_server(model) as server:
        target = Target.of(server)
        hop_ms, send_ms = measure_messages(server.url)
        alone = replace(alone, hop_ms=hop_ms, send_ms=send_ms)
        met = meet(target, rates, seconds, rounds)
        search = Sweep(objective, Load.plain(rate=2.0, seconds=seconds, seed=100), repeats=1, precision=PRECISION)
        knee, seen = find_knee(target, search)
    predicted = sweep(search, on_table(calibrate(alone, seen, LIMITS)[0]), lambda _: None)
    loads = [compared([each for each in met if each.load.rate == rate], alone) for rate in rates]
    for load in loads:
        say(load)
    return {
        "alone": alone.to_json(),
        "seconds": seconds,
        "rounds": rounds,
        "loads": loads,
        "objective": asdict(objective),
        "knee": {"predicted": predicted["knee"], "measured": knee["knee"]},
        "knee_points": {"predicted": _points(predicted), "measured": _points(knee)},
    }


def meet(target: Target, rates: Sequence[float], seconds: float, rounds: int) -> list[Met]:
    """Make the calls of every rate, each round others, between closed loops."""
    met = []
    before = see(target, seconds=CALIBRATION_S)
    for number in range(rounds):
        for rate in rates:
            load = Load.plain(rate=rate, seconds=seconds, seed=number)
            heard = hear(load, target, _silent)
            after = see(target, seconds=CALIBRATION_S)
            met.append(Met(load, heard, [*before, *after]))
            before = after
    return met


def find_knee(target: Target, search: Sweep) -> tuple[dict[str, Any], list[Seen]]:
    """The measured knee, and closed loops from before every rate that was tried."""
    attempt, seen = on_server(target, _silent), []

    def calibrated(load: Load) -> Tried:
        seen.extend(see(target, seconds=CALIBRATION_S))
        return attempt(load)

    return sweep(search, calibrated, _say_point), seen


def on_table(costs: CostTable) -> Try:
    """Runs on a simulated server."""
    return lambda load: Tried(simulate(load, costs, LIMITS).answers)


def compared(rounds: Sequence[Met], alone: CostTable) -> dict[str, Any]:
    """The rounds of one rate, predicted and measured."""
    seconds = rounds[0].load.seconds
    tables = [calibrate(alone, each.seen, LIMITS) for each in rounds]
    runs = [simulate(each.load, costs, LIMITS) for each, (costs, _) in zip(rounds, tables, strict=True)]
    heard = [each.heard.run.answers for each in rounds]
    measured = pooled(heard, seconds)
    others = [other_cores(each.heard.processes()) or 0.0 for each in rounds]
    return {
        "rate": rounds[0].load.rate,
        "calls": measured["calls"],
        "errors": measured["errors"],
        "why_invalid": [fault for each in rounds for fault in invalid(each.heard.run)],
        "other_cores": round(fmean(others), 3),
        **compare(pooled([run.answers for run in runs], seconds), measured),
        "rounds": [
            {**compare(pooled([run.answers], seconds), pooled([answers], seconds)), "in_server": in_server}
            for run, answers, (_, in_server) in zip(runs, heard, tables, strict=True)
        ],
        **_stages(runs, [each.heard for each in rounds]),
    }


def compare(predicted: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """The figures of a load, and by how much the prediction is off: 0.1 is 10 % too high."""
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


def _stages(runs: Sequence[Simulated], heard: Sequence[Heard]) -> dict[str, Any]:
    """Busy shares of the stages and generate's mean batch, means over the rounds."""
    found = [each.stages() or {} for each in heard]
    return {
        "busy_share": {
            stage: {
                "predicted": round(fmean(run.busy[stage] / run.seconds for run in runs), 3),
                "measured": round(fmean(each[stage]["busy_share"] for each in found), 3),
            }
            for stage in found[0]
        },
        "mean_batch": {
            "predicted": round(fmean(run.mean_batch for run in runs), 2),
            "measured": round(fmean(each["generate"]["mean_batch"] for each in found), 2),
        },
    }


def _points(found: dict[str, Any]) -> list[dict[str, Any]]:
    said = ("rate", "misses", "calls", "ttfa_ms", "continuity", "other_cores")
    return [{key: point[key] for key in said} for point in found["points"]]


def _silent(_: Run) -> None:
    """Progress is for people who wait; a measurement of two cores does without."""


def say(load: dict[str, Any]) -> None:
    print(f"{load['rate']:g} calls per s, others took {load['other_cores']} cores; predicted / measured (its rounds):")
    for name, pair in load.items():
        if isinstance(pair, dict) and pair.get("off") is not None:
            rounds = ", ".join(figure(each[name]["measured"]) for each in load["rounds"])
            both = f"{figure(pair['predicted']):>8} / {figure(pair['measured']):>8}"
            print(f"    {name:<16} {both} ({pair['off']:+.0%})   ({rounds})")
    print(f"    busy {load['busy_share']}", flush=True)


def _say_point(point: dict[str, Any]) -> None:
    print(f"{point['rate']:g} calls per s: {', '.join(point['misses']) or 'holds'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.2, 2.0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ttfa-p95-ms", type=float, default=400.0)
    parser.add_argument("--continuity", type=float, default=0.5)
    given = parser.parse_args()
    objective = Objective(given.ttfa_p95_ms, given.continuity)
    print(save("validation", validate(given.model, given.rates, given.seconds, given.rounds, objective)))


if __name__ == "__main__":
    main()
