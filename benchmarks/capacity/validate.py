"""Hold the simulator against the real server: the same calls, predicted from a cost table and measured, side by side.

    python -m benchmarks.capacity.validate [--rates 0.5 1.2 2] [--seconds 45]

Measures the stages alone, then loads at each rate and a sweep for the knee, calibrating around each; simulates the same
calls. Writes `benchmarks/results/validation-DATE.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.capacity.calibrate import calibrate, see
from benchmarks.capacity.cost import CostTable
from benchmarks.capacity.measure import REPEATS, measure_alone, measure_hop
from benchmarks.capacity.simulate import simulate
from benchmarks.load.drive import Run
from benchmarks.load.measure import Target, measure
from benchmarks.load.plan import Load
from benchmarks.load.report import figure
from benchmarks.load.server_share import OTHERS
from benchmarks.load.summary import overall
from benchmarks.record import save
from benchmarks.sweep.measure import Sweep, Tried, Try, on_server, sweep
from benchmarks.sweep.objective import Objective
from demo.server import running_server
from misotts.generate.scheduler import Limits

CALIBRATION_S = 6.0
"""Of each closed loop, two before and two after every load."""


def on_table(costs: CostTable, limits: Limits) -> Try:
    """Runs on a simulated server."""
    return lambda load: Tried(simulate(load, costs, limits).answers)


def compare(predicted: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """The figures of one load, and by how much the prediction is off: 0.1 is 10 % too high."""
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


def validate(model: Path, rates: Sequence[float], seconds: float, objective: Objective) -> dict[str, Any]:
    """The whole comparison, ready for JSON.

    The stages are calibrated in the server before and after each load, and what was seen on both sides of it predicts
    it: other work on the machine comes and goes within minutes, and no table knows of it.
    """
    limits = Limits()
    alone = measure_alone(model, REPEATS, CALIBRATION_S)
    with running_server(model) as server:
        target = Target.of(server)
        alone = replace(alone, hop_ms=measure_hop(server.url))
        loads, before = [], see(target, seconds=CALIBRATION_S)
        for rate in rates:
            load = Load.plain(rate=rate, seconds=seconds)
            measured = measure(load, target, _silent)
            after = see(target, seconds=CALIBRATION_S)
            costs, in_server = calibrate(alone, [*before, *after], limits)
            loads.append({**_compared(load, measured, costs, limits), "in_server": in_server})
            _say(loads[-1])
            before = after
        middle = Load.plain(rate=rates[len(rates) // 2], seconds=seconds / 2, seed=100)
        search = Sweep(objective, middle, repeats=1, precision=0.15)
        found = sweep(search, on_server(target, _silent), _say_point)
        costs, in_server = calibrate(alone, [*before, *see(target, seconds=CALIBRATION_S)], limits)
        knees = {"predicted": sweep(search, on_table(costs, limits), lambda _: None), "measured": found}
    return {
        "alone": alone.to_json(),
        "seconds": seconds,
        "loads": loads,
        "objective": asdict(objective),
        "knee": {**{name: found["knee"] for name, found in knees.items()}, "in_server": in_server},
        "knee_points": {
            name: [
                {key: point[key] for key in ("rate", "misses", "calls", "ttfa_ms", "continuity", "other_cores")}
                for point in found["points"]
            ]
            for name, found in knees.items()
        },
    }


def _compared(load: Load, measured: dict[str, Any], costs: CostTable, limits: Limits) -> dict[str, Any]:
    expected = simulate(load, costs, limits)
    stages = measured["stages"] or {}
    return {
        "rate": load.rate,
        "calls": measured["overall"]["calls"],
        "errors": measured["overall"]["errors"],
        "valid": measured["valid"],
        "other_cores": next(each["cores"] for each in measured["processes"] if each["process"] == OTHERS),
        **compare(overall(expected.answers, load.seconds), measured["overall"]),
        "busy_share": {
            stage: {"predicted": round(expected.busy[stage] / expected.seconds, 3), "measured": spent["busy_share"]}
            for stage, spent in stages.items()
        },
        "mean_batch": {
            "predicted": round(expected.mean_batch, 2),
            "measured": stages["generate"]["mean_batch"] if stages else None,
        },
    }


def _silent(_: Run) -> None:
    """Progress is for people who wait; a measurement of two cores does without."""


def _say(load: dict[str, Any]) -> None:
    print(f"{load['rate']:g} calls per s, others took {load['other_cores']} cores; predicted / measured:")
    for name, pair in load.items():
        if isinstance(pair, dict) and pair.get("off") is not None:
            print(f"    {name:<16} {figure(pair['predicted']):>8} / {figure(pair['measured']):>8} ({pair['off']:+.0%})")
    print(f"    busy {load['busy_share']}", flush=True)


def _say_point(point: dict[str, Any]) -> None:
    print(f"{point['rate']:g} calls per s: {', '.join(point['misses']) or 'holds'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.2, 2.0])
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--ttfa-p95-ms", type=float, default=400.0)
    parser.add_argument("--continuity", type=float, default=0.5)
    given = parser.parse_args()
    objective = Objective(given.ttfa_p95_ms, given.continuity)
    print(save("validation", validate(given.model, given.rates, given.seconds, objective)))


if __name__ == "__main__":
    main()
