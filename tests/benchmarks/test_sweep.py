"""The search for a knee, objectives, and the commands `sweep` and `peers`."""

import json
import math
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks import peers
from benchmarks.load import command as load_command
from benchmarks.load.caller import Answer
from benchmarks.load.plan import Load, calls
from benchmarks.load.playback import Arrival
from benchmarks.sweep import measure
from benchmarks.sweep.knee import MOST_STEPS, Knee, Objective, find_knee
from benchmarks.sweep.measure import Sweep, Tried, climb, sweep
from misotts.cli.main import app
from misotts.config import FRAME_SAMPLES


@given(threshold=st.floats(0.01, 1000), start=st.floats(0.5, 20), precision=st.sampled_from([0.03, 0.1, 0.5]))
def test_the_knee_is_found_as_closely_as_asked(threshold: float, start: float, precision: float) -> None:
    tried = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= threshold

    knee = find_knee(holds, start, precision)
    assert knee.holds is not None
    assert knee.misses is not None
    assert knee.holds <= threshold < knee.misses
    assert knee.misses / knee.holds <= 1 + precision
    assert len(set(tried)) == len(tried) <= MOST_STEPS + 6


def test_a_search_ends_where_nothing_or_all_holds() -> None:
    assert find_knee(lambda rate: False, 1.0, 0.1) == Knee(None, 2.0 ** (1 - MOST_STEPS))
    assert find_knee(lambda rate: True, 1.0, 0.1) == Knee(2.0 ** (MOST_STEPS - 1), None)


def test_no_rate_below_the_least_is_tried() -> None:
    assert find_knee(lambda rate: False, 1.0, 0.1, least=0.2) == Knee(None, 0.25)
    assert find_knee(lambda rate: False, 0.1, 0.1, least=0.2) == Knee(None, 0.1)
    knee = find_knee(lambda rate: rate < 0.3, 1.0, 0.1, least=0.25)
    assert (knee.holds or 0) < 0.3 <= (knee.misses or 0)


@pytest.mark.parametrize(
    ("p95", "continuity", "missed"),
    [
        (200.0, 0.999, []),
        (200.1, 0.999, ["TTFA p95 200.1 ms"]),
        (None, 0.999, ["TTFA p95 failed"]),
        (100.0, 0.9989, ["continuity 99.89 %"]),
        (100.0, None, ["continuity -"]),
        (300.0, 0.5, ["TTFA p95 300 ms", "continuity 50.00 %"]),
    ],
)
def test_misses_of_an_objective(p95: float | None, continuity: float | None, missed: list[str]) -> None:
    figures = {"calls": 1, "ttfa_ms": {"p95": p95}, "continuity": continuity}
    assert Objective(200, 0.999).misses(figures) == missed
    assert Objective(200, 0.999).misses({**figures, "calls": 0}) == ["no call was due"]


def heard(load: Load, wait_s: float) -> Tried:
    """Answer every call with one frame after `wait_s`."""
    answers = []
    for call in calls(load):
        due = call.at_s or 0.0
        arrivals = [Arrival(due + wait_s, FRAME_SAMPLES)]
        answers.append(Answer(call, due, due, arrivals, ended_s=due + wait_s, finish="length"))
    return Tried(answers)


def run(attempt: Any, **changes: Any) -> dict[str, Any]:
    plan = Sweep(Objective(150, 1.0), Load(rate=1.0, seconds=20, arrivals="constant"), repeats=3, precision=0.2)
    return sweep(replace(plan, **changes), attempt, lambda point: None)


def test_a_sweep_judges_the_runs_of_a_rate_together() -> None:
    seeds = set()

    def attempt(load: Load) -> Tried:
        seeds.add(load.seed)
        return heard(load, 0.05 * (load.rate or 0))

    result = run(attempt)
    assert seeds == {0, 1, 2}
    assert result["valid"]
    assert result["knee"]["holds"] <= 3.0 < result["knee"]["misses"]
    rates = [point["rate"] for point in result["points"]]
    assert rates == sorted(rates)
    for point in result["points"]:
        assert point["calls"] == 3 * math.ceil(20 * point["rate"])
        assert point["audio_s_per_s"] == pytest.approx(point["calls"] / 3 * 0.08 / 20, rel=0.05)
        assert bool(point["misses"]) == (point["rate"] > 3.0)


def test_one_bad_run_of_three_misses() -> None:
    assert run(lambda load: heard(load, 0.2 if load.seed == 1 else 0.01))["knee"]["holds"] is None


def test_an_objective_that_a_lone_call_misses_ends_the_search() -> None:
    result = run(lambda load: heard(load, 0.2))
    assert [point["rate"] for point in result["points"]] == [0.0625, 0.125, 0.25, 0.5, 1.0]  # in runs of 20 s
    assert result["knee"] == {"holds": None, "misses": 0.0625}


def test_a_load_generator_that_is_late_makes_a_sweep_invalid_only_near_the_knee() -> None:
    def run_with(is_late: Callable[[Load], bool]) -> dict[str, Any]:
        return run(lambda load: replace(heard(load, 0.05 * (load.rate or 0)), faults=["late"] * is_late(load)))

    everywhere, far = run_with(lambda load: load.seed == 2), run_with(lambda load: (load.rate or 0) > 3.9)
    assert not everywhere["valid"]
    assert all(point["why_invalid"] == ["late"] for point in everywhere["points"])
    assert any(point["why_invalid"] for point in far["points"])
    assert far["valid"]


def test_rates_are_promoted_until_one_has_an_underrun() -> None:
    tried: list[float] = []

    def attempt(load: Load) -> Tried:
        rate = load.rate or 0.0
        tried.append(rate)
        run = heard(load, 0.01)
        if rate == 4 and load.seed == 1:  # the second of one call's chunks is late
            first = run.answers[0].arrivals[0]
            run.answers[0].arrivals.append(Arrival(first.at_s + 0.081, FRAME_SAMPLES))
        return run

    plan = Sweep(Objective(math.inf, 1.0), Load(rate=1.0, seconds=20), repeats=3)
    result = climb(plan, [4, 1, 2, 8], attempt, lambda point: None)
    assert tried == [1, 1, 1, 2, 2, 2, 4, 4, 4]
    assert result["knee"] == {"holds": 2, "misses": 4}
    assert [bool(point["misses"]) for point in result["points"]] == [False, False, True]


def test_a_sweep_without_a_limit_of_the_ttfa_is_written_and_no_figure_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_command, "target", lambda *server, http: nullcontext())
    monkeypatch.setattr(measure, "on_server", lambda target, show: lambda load: heard(load, 1.2345))
    options = ["--rate=1", "--rate=12", "--repeats=1", f"--output={tmp_path / 'sweep.json'}"]
    found = CliRunner().invoke(app, ["bench", "sweep", *options], env={"COLUMNS": "80"})
    assert found.exit_code == 0, found.output
    assert "continuity >= 100 %: 12 calls per s are promoted" in found.output
    assert found.output.count("1,234") + found.output.count("1,235") == 4  # p50 and p95
    assert "…" not in found.output
    result = json.loads((tmp_path / "sweep.json").read_text())
    assert result["objective"] == {"ttfa_p95_ms": None, "continuity": 1.0}


@pytest.mark.parametrize("faults", [[], ["the loop was late"]])
def test_sweep_prints_rates_and_validity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[str]) -> None:
    def attempt(load: Load) -> Tried:
        return replace(heard(load, (load.rate or 0) / 10), faults=faults)

    monkeypatch.setattr(load_command, "target", lambda *server, http: nullcontext())
    monkeypatch.setattr(measure, "on_server", lambda target, show: attempt)
    options = ["--ttfa-p95-ms=150", "--rate=1", "--rate=2", "--repeats=1", f"--output={tmp_path / 'sweep.json'}"]
    found = CliRunner().invoke(app, ["bench", "sweep", *options])
    assert found.exit_code == (3 if faults else 0)
    doubt = ", not valid" if faults else ""
    lines = [line.strip() for line in found.output.splitlines()]
    assert f"1 calls per s: promoted{doubt}" in lines
    assert f"2 calls per s: TTFA p95 200 ms{doubt}" in lines
    assert "TTFA p95 <= 150 ms, continuity >= 100 %: 1 calls per s are promoted" in lines
    assert ("NOT VALID" in found.output) == bool(faults)
    result = json.loads((tmp_path / "sweep.json").read_text())
    assert ("at 1 calls per s: the loop was late" in result["why_invalid"]) == bool(faults)
    assert (result["load"]["seconds"], result["load"]["chars"], result["load"]["lead_ms"]) == (30, 60, None)
    assert [name.name for name in tmp_path.iterdir()] == ["sweep.json"]


def test_peers_run_in_a_process_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run_command(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", run_command)
    output = [f"--output={tmp_path / 'peers.json'}"]
    assert CliRunner().invoke(app, ["bench", "peers", "--threads=2", "--rounds=3", "--model=m", *output]).exit_code == 7
    assert commands == [["-m", "benchmarks.peers", "--model=m", "--threads=2", "--rounds=3", *output]]


def test_a_peer_race_in_words() -> None:
    assert peers.in_words({"ours": 30.0, "theirs": 20.0, "ours / theirs": [1.5, 1.4, 1.6]}).splitlines() == [
        "  ours           30.0 frames/s",
        "  theirs         20.0 frames/s",
        "  ours / theirs  1.5 (1.4 to 1.6)",
    ]
