"""Cost tables, their calibration, and the planner with its command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.capacity.calibrate import SCALED, Seen, calibrate
from benchmarks.capacity.planner import Option, Planner, Point, fleet
from benchmarks.capacity.simulate import simulate
from benchmarks.capacity.traffic import Traffic, read_day
from benchmarks.costs import table as cost
from benchmarks.costs.gpus import GPUS, NoSuchPrecisionError, floor
from benchmarks.costs.table import CostError, Grid
from benchmarks.load.plan import Load
from benchmarks.load.summary import overall
from benchmarks.record import write
from benchmarks.sweep.knee import Objective
from misotts.cli.main import app
from misotts.engines.interface import Limits
from tests.support.constant_costs import HOP, LIMITS, LONE, PROMPT, TABLE, growing

grids = st.tuples(*[st.lists(st.integers(1, 500), min_size=1, max_size=5, unique=True).map(sorted)] * 2).flatmap(
    lambda axes: st.lists(
        st.lists(st.floats(0, 100), min_size=len(axes[1]), max_size=len(axes[1])),
        min_size=len(axes[0]),
        max_size=len(axes[0]),
    ).map(lambda ms: Grid(list(axes[0]), list(axes[1]), ms))
)


@given(grids, st.floats(0, 1), st.floats(0, 2))
def test_a_grid_interpolates_between_its_points(grid: Grid, down: float, across: float) -> None:
    for row, values in zip(grid.rows, grid.ms, strict=True):
        for column, value in zip(grid.columns, values, strict=True):
            assert grid.at(row, column) == pytest.approx(value)
    inside = grid.at(down * grid.rows[-1], min(across, 1) * grid.columns[-1])
    assert min(map(min, grid.ms)) - 1e-9 <= inside <= max(map(max, grid.ms)) + 1e-9
    assert grid.at(grid.rows[0], across * grid.columns[-1] + 1) >= 0
    with pytest.raises(CostError, match="measured up to"):
        grid.at(grid.rows[-1] + 1, 1)


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "costs.json", {**TABLE.to_json(), "date": TABLE.date, "more": "is allowed"})
    assert cost.read(path) == TABLE


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", "2", "format: must be"),
        ("source", "guessed", "source: must be"),
        ("step", None, "step: "),
        ("step", {"batch": [1], "context": [1], "ms": [[1, 2]]}, "step: needs rising points"),
        ("decode", {"rows": [2, 1], "frames": [1], "ms": [[1], [1]]}, "decode: needs rising points"),
        ("watermark", {"rows": [1], "frames": [1], "ms": [[-1]]}, "watermark: needs times"),
        ("prefill", {"positions": [1]}, "prefill: ms is missing"),
        ("speed_when_busy", [0.9], "speed_when_busy: must begin with 1"),
        ("hop_ms", ..., "hop_ms: is missing"),
    ],
)
def test_a_wrong_table_names_the_key(tmp_path: Path, key: str, value: Any, words: str) -> None:
    raw = {name: each for name, each in (TABLE.to_json() | {key: value}).items() if each is not ...}
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(CostError, match=f"costs.json: {words}"):
        cost.read(path)


def test_the_floor_is_that_of_the_models_bytes_and_operations() -> None:
    """Worked out by hand: weights of 6.98 G, 31 x 302 M and 113 M in bfloat16 at 3.0 TB/s."""
    table = floor(GPUS["h100"])
    assert table.step.at(1, 64) == pytest.approx(4.65 + 6.32, rel=0.01)
    assert table.step.at(64, 400) - table.step.at(64, 0) <= table.step.at(64, 400) - table.step.at(1, 64)
    assert table.step.at(64, 464) - table.step.at(64, 64) == pytest.approx(64 * 400 * 131072 / 3.0e9, rel=0.01)
    assert table.step.at(512, 64) == pytest.approx(512 / 256 * (3.6e12 + 4.9e12) / 989e9, rel=0.03)  # operations
    assert floor(GPUS["h100"], fp8=True).step.at(1, 64) == pytest.approx(table.step.at(1, 64) / 2, rel=0.01)
    assert table.slower_device(2).step.at(1, 64) == pytest.approx(2 * table.step.at(1, 64))
    assert table.slower_device(2).watermark == table.watermark  # the host's
    with pytest.raises(NoSuchPrecisionError):
        floor(GPUS["a100"], fp8=True)
    with pytest.raises(ValueError, match="does not fit"):
        floor(replace(GPUS["h100"], memory_gb=16))


def test_a_calibration_finds_what_the_server_adds() -> None:
    table = replace(TABLE, network_ms=0.0, step=growing(1.0), speed_when_busy=[1.0, 0.8])
    factors = {"generate": 1.4, "decode": 2.0, "watermark": 0.9}

    def slower(grid: Grid, factor: float) -> Grid:
        return replace(grid, ms=[[ms * factor for ms in row] for row in grid.ms])

    grids = (table.step, table.decode, table.watermark)
    step, decode, watermark = (slower(grid, factor) for grid, factor in zip(grids, factors.values(), strict=True))
    real = replace(table, step=step, decode=decode, watermark=watermark, hop_ms=3.5)
    seen = []
    for count in (1, 3):
        load = Load(streams=count, seconds=6)
        run = simulate(load, real, LIMITS)
        heard_s = sum(answer.audio_s for answer in run.answers)
        busy = {stage: run.busy[stage] * 1000 / heard_s for stage in SCALED}
        seen.append(Seen(load, busy, overall(run.answers, 6)["ttfa_ms"]["p50"]))
    fitted, found = calibrate(table, seen, LIMITS)
    assert found["alone_hop_ms"] == HOP
    assert {stage: found[stage] for stage in SCALED} == pytest.approx(factors, rel=0.05)
    assert fitted.hop_ms == pytest.approx(3.5, abs=0.5)


TRAFFIC = Traffic(callers=60, talk_share=0.5, utterance_s=2.0)
OBJECTIVE = Objective(ttfa_p95_ms=400, continuity=0.99)
GROWING = replace(TABLE, step=growing(2.0), speed_when_busy=[1.0, 0.5])
PLANNER = Planner(TRAFFIC, OBJECTIVE, max_streams=64, counted=200)


def test_a_fleet_has_as_many_servers_as_the_peak_needs() -> None:
    holding = PLANNER.holds(Option("constant", GROWING))
    found = fleet(holding, TRAFFIC)
    assert holding.best
    assert found
    assert not holding.best.misses
    assert (found.at_peak - 1) * holding.best.rate < TRAFFIC.peak_rate <= found.at_peak * holding.best.rate
    assert found.with_spare == found.at_peak + 1
    assert max(found.by_hour) == found.with_spare
    beyond = [point for point in holding.points if point.rate > holding.best.rate]
    assert beyond
    assert all(point.misses for point in beyond)
    price = found.price_per_audio_hour(TRAFFIC, 2.0, scaled=False)
    assert price * TRAFFIC.audio_hours_a_day == pytest.approx(24 * found.with_spare * 2.0)
    assert found.price_per_audio_hour(TRAFFIC, 2.0, scaled=True) < price


def test_busy_shares_are_those_of_the_judged_time() -> None:
    """Four seconds are judged, with ten before them and a drain after them."""
    point = Planner(TRAFFIC, OBJECTIVE, max_streams=64, counted=64).point(Option("", GROWING), 16.0)
    assert point.busy["prompt"] == pytest.approx(point.overall["calls"] / 4 * PROMPT / 1000, rel=0.05)
    assert point.busy["generate"] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("busy", "named"),
    [
        ({"prompt": 0.1, "generate": 1.0, "decode": 0.6, "watermark": 0.95, "device": 1.0}, "watermark"),
        ({"prompt": 0.1, "generate": 1.0, "decode": 0.92, "watermark": 0.7, "device": 1.0}, "decode"),
        ({"prompt": 0.1, "generate": 1.0, "decode": 0.6, "watermark": 0.7, "device": 1.0}, "generate"),
        ({"prompt": 0.95, "generate": 0.8, "decode": 0.3, "watermark": 0.3, "device": 0.8}, "prompt"),
        ({"prompt": 0.1, "generate": 0.8, "decode": 0.3, "watermark": 0.3, "device": 0.95}, "none"),
    ],
)
def test_the_bottleneck_is_the_last_busy_stage(busy: dict[str, float], named: str) -> None:
    assert Point(1.0, {}, busy, []).bottleneck == named


def test_an_objective_below_a_lone_callers_ttfa_never_holds() -> None:
    holding = Planner(TRAFFIC, Objective(LONE - 1, 0.5), max_streams=8, counted=50).holds(Option("constant", TABLE))
    assert holding.best is None
    assert min(point.rate for point in holding.points) * TRAFFIC.mean_utterance_s > 0.01
    assert fleet(holding, TRAFFIC) is None


def test_the_calls_of_a_failed_server_are_repeated_at_once() -> None:
    failure = PLANNER.failure(Option("constant", GROWING), servers=3)
    share = TRAFFIC.peak_rate / 3 * TRAFFIC.mean_utterance_s
    assert failure["broken_streams"] == round(share)
    quiet, burst = failure["before"]["calls"] / 50, failure["first_seconds"]["calls"] - TRAFFIC.peak_rate / 2 * 10
    assert quiet == pytest.approx(TRAFFIC.peak_rate / 3, rel=0.3)
    assert burst == pytest.approx(share / 2, abs=25)
    assert failure["first_seconds"]["ttfa_ms"]["p95"] > failure["before"]["ttfa_ms"]["p95"]
    assert PLANNER.failure(Option("constant", GROWING), servers=1)["all_is_lost"]


def test_traffic_adds_up() -> None:
    flat_day = replace(TRAFFIC, day=(100.0,) * 24)
    assert flat_day.audio_hours_a_day == pytest.approx(60 * 0.5 * 24)
    assert flat_day.peak_streams == pytest.approx(30)
    answers = simulate(flat_day.load(5, 100, seed=0), TABLE, Limits(64, 64)).answers
    assert sum(each.audio_s for each in answers) / len(answers) == pytest.approx(flat_day.mean_utterance_s, rel=0.1)


def test_a_day_is_24_numbers(tmp_path: Path) -> None:
    path = tmp_path / "day.json"
    path.write_text(json.dumps([5, *[50] * 23]))
    assert read_day(path)[:2] == (10.0, 100.0)
    for wrong in ("[1]", json.dumps([0] * 24), json.dumps(["1"] * 24), "{"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"day\.json"):
            read_day(path)


def run_capacity(*options: str) -> Any:
    return CliRunner().invoke(app, ["capacity", "--calls=50", "--utterance-s=2", *options])


def plan(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Return the plan of `misotts capacity` from its file, and what the command printed, as one line."""
    output = folder / "plan.json"
    result = run_capacity(*options, f"--output={output}")
    assert result.exit_code == 0, result.output
    return json.loads(output.read_text()), " ".join(result.output.split())


@pytest.mark.long
def test_capacity_answers_with_the_source_of_its_costs(tmp_path: Path) -> None:
    prices = ("--price=h100=2.5", "--price=h200=3.5")
    found, printed = plan(tmp_path, "--gpu=h100", "--max-streams=3", "--callers=150", "--continuity=0.9", *prices)
    planned, *others = found["options"]
    assert "from the floor model, never measured" in printed
    assert all(answer["source"] == "floor model" for answer in found["options"] + found["changes"])
    assert [each["name"] for each in found["options"]] == [f"H100 SXM, {n} x floor" for n in ("1.5", "1", "2")]
    assert {"FP8 weights", "H200"} < {answer["name"] for answer in found["changes"]}
    assert planned["price_per_audio_hour"]["fixed"] > planned["price_per_audio_hour"]["scaled"] > 0
    at_peak, with_spare = planned["fleet"]["at_peak"], planned["fleet"]["with_spare"]
    assert [failure["servers"] for failure in found["failures"]] == [at_peak, with_spare]
    spares = [f"{each['name']}: {each['fleet']['with_spare']}" for each in others]
    assert f"{with_spare} GPUs, of which one is a spare; {'; '.join(spares)}." in printed
    assert [each.name for each in tmp_path.iterdir()] == ["plan.json"]


def test_a_measured_table_is_called_measured(tmp_path: Path) -> None:
    table = replace(GROWING, not_measured_here=["hop_ms"])
    costs = write(tmp_path / "costs.json", {**table.to_json(), "date": TABLE.date})
    _, printed = plan(tmp_path, f"--costs={costs}", "--callers=20", "--continuity=0.9")
    assert "constant (measured 2026-11-23, but for hop_ms)" in printed
    assert "never measured" not in printed


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--gpu=h1000", "must be one of l40s"),
        ("--price=h100", "must be like h100=2.50"),
        ("--price=b200=5", "h100=..., h200=..."),
        ("--costs=nothing.json", "nothing.json"),
        ("--day=pyproject.toml", "pyproject.toml"),
        ("--costs=pyproject.toml", "is not JSON"),
        ("--output=plan.txt", "must end in .json"),
    ],
)
def test_a_wrong_option_is_refused(option: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    result = run_capacity(option)
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())


def test_capacity_reports_an_objective_that_cannot_hold(tmp_path: Path) -> None:
    costs = write(tmp_path / "costs.json", GROWING.to_json())
    found, printed = plan(tmp_path, f"--costs={costs}", "--callers=20", "--ttfa-p95-ms=1")
    assert "not even a single caller's objective holds" in printed
    assert found["failures"] == []
