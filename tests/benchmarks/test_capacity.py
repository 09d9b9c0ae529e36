"""The simulator against figures worked out by hand, and the planner on top of it."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.capacity.calibrate import SCALED, Seen, calibrate
from benchmarks.capacity.device import Device
from benchmarks.capacity.planner import Option, Planner, fleet
from benchmarks.capacity.simulate import Caller, Server, simulate
from benchmarks.capacity.stages import Decode, Piece
from benchmarks.capacity.traffic import Traffic, read_day
from benchmarks.costs import table as cost
from benchmarks.costs.gpus import GPUS, NoSuchPrecisionError, floor
from benchmarks.costs.table import CostError, CostTable, Grid, Line, PromptCost
from benchmarks.load.caller import Answer
from benchmarks.load.plan import Call, Load, calls
from benchmarks.load.playback import play
from benchmarks.load.summary import overall
from benchmarks.record import write
from benchmarks.sweep.knee import Objective
from misotts.cli.main import app
from misotts.config import FRAME_SAMPLES, SAMPLE_RATE
from misotts.engines.interface import Limits
from misotts.generate.flow import AdmissionRule, FlowOptions

STEP, DECODE, WATERMARK, PROMPT, HOP, SEND, NETWORK = 20.0, 3.0, 4.0, 1.0, 2.0, 0.5, 10.0
HOLD_BACK = 5
LIMITS = Limits(max_streams=8, max_waiting=8)


def flat(ms: float) -> Grid:
    return Grid([1, 64], [1, 4096], [[ms, ms], [ms, ms]])


TABLE = CostTable(
    name="constant",
    source="measured",
    step=flat(STEP),
    prefill=Line([1, 1001], [0.0, 0.0]),
    decode=flat(DECODE),
    watermark=flat(WATERMARK),
    prompt=PromptCost(PROMPT, 0.25, 6),
    hop_ms=HOP,
    send_ms=SEND,
    network_ms=NETWORK,
    speed_when_busy=[1.0, 1.0, 1.0],
    overlaps=False,
    hold_back_frames=HOLD_BACK,
    block_size=32,
    kv_blocks=500,
    date="2026-11-23T00:00:00+00:00",
)


def plain(rate: float, seconds: float, **changes: Any) -> Load:
    return Load(rate=rate, seconds=seconds, **changes)


def alone(table: CostTable) -> Answer:
    """Simulate one call on an idle server."""
    (answer,) = simulate(plain(1, 0.001), table, LIMITS).answers
    return answer


def ttfa_ms(table: CostTable) -> float:
    return (alone(table).ttfa_s or 0) * 1000


PROMPT_POSITIONS = TABLE.prompt.positions(len(next(calls(plain(1, 1))).request.text))
LONE = 2 * NETWORK + 5 * HOP + PROMPT + (HOLD_BACK + 1) * STEP + DECODE + WATERMARK


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_lone_callers_first_audio_is_the_sum_of_its_way(overlaps: bool) -> None:
    assert ttfa_ms(replace(TABLE, overlaps=overlaps)) == pytest.approx(LONE)


def test_a_lone_callers_last_audio_is_a_step_for_every_frame() -> None:
    answer = alone(TABLE)
    frames = round(answer.audio_s * SAMPLE_RATE / FRAME_SAMPLES)
    assert answer.finish == "length"
    assert frames > HOLD_BACK
    assert answer.ended_s * 1000 == pytest.approx(LONE + (frames - HOLD_BACK - 1) * STEP)


def test_the_simulated_server_has_the_rules_of_the_real_one() -> None:
    """Steps of 20 ms and 10 ms a stream carry 5 or 6 streams at the pace of playback; five times as many come."""
    slow = replace(TABLE, step=Grid([1, 64], [1, 4096], [[30, 30], [660, 660]]), decode=flat(0), watermark=flat(0))
    load = plain(7.5, 30.0, chars=60, lead_ms=None)
    shares = {}
    for rule in get_args(AdmissionRule):
        answers = simulate(load, slow, replace(LIMITS, max_streams=32), options=FlowOptions(admission=rule)).answers
        served = [play(answer.arrivals).underrun_s for answer in answers if answer.finish and answer.due_s > 5]
        assert len(served) > 15
        shares[rule] = sum(underrun <= 0.02 for underrun in served) / len(served)
        refused = [answer for answer in answers if answer.error]
        assert {answer.error for answer in refused} == {"UNAVAILABLE"}
        assert len(refused) > len(answers) / 2
    assert shares["pace"] == 1
    assert shares["slots"] < 0.5


def test_a_listener_is_generated_no_further_ahead_than_its_lead() -> None:
    (call,) = [replace(call, cancel_after_s=math.inf) for call in calls(plain(1, 0.001, chars=200, lead_ms=1000))]
    (answer,) = simulate(plain(1, 1), TABLE, LIMITS, [call]).answers
    assert answer.ended_s - answer.arrivals[0].at_s == pytest.approx(answer.audio_s - 1.0, abs=0.7)


def test_a_prompt_costs_what_its_positions_cost_beyond_the_first() -> None:
    table = replace(TABLE, prefill=Line([1, 1001], [5.0, 1005.0]))
    assert ttfa_ms(table) == pytest.approx(LONE + PROMPT_POSITIONS - 1)


def test_a_step_costs_what_its_context_costs() -> None:
    table = replace(TABLE, step=Grid([1], [0, 4096], [[STEP, STEP + 4096]]))  # a millisecond for each position
    assert ttfa_ms(table) == pytest.approx(LONE + sum(PROMPT_POSITIONS + frame for frame in range(HOLD_BACK)))


def test_a_call_beside_running_streams_waits_for_the_planned_step() -> None:
    """With overlap, one step is under way and the next one is already planned."""
    first, second = [replace(call, at_s=at) for call, at in zip(calls(plain(9, 9)), (0.0, 0.205), strict=False)]

    def second_ttfa_ms(overlaps: bool) -> float:
        table = replace(TABLE, overlaps=overlaps, decode=flat(0), watermark=flat(0))
        run = simulate(plain(1, 1), table, LIMITS, [first, second])
        return (run.answers[1].ttfa_s or 0) * 1000

    assert second_ttfa_ms(overlaps=True) == pytest.approx(second_ttfa_ms(overlaps=False) + STEP)


def test_messages_of_one_stage_leave_one_after_the_other() -> None:
    """Two calls come at once. The later call's chunk goes first; the other one is one message later, because decode
    works on the first chunk alone and sends it before it takes the second."""
    load = plain(1, 1, chunk_frames=1)
    both = [replace(call, at_s=0.0) for call, _ in zip(calls(plain(9, 9)), range(2), strict=False)]
    table = replace(TABLE, decode=flat(0), watermark=flat(0), prompt=replace(TABLE.prompt, ms=0.0))

    def ttfas_ms(send_ms: float) -> list[float]:
        run = simulate(load, replace(table, send_ms=send_ms), LIMITS, both)
        return [(answer.ttfa_s or 0) * 1000 for answer in run.answers]

    at_once, late = ttfas_ms(0.0), ttfas_ms(SEND)
    assert at_once[0] == pytest.approx(at_once[1])
    assert late == pytest.approx([at_once[0] + SEND, at_once[1]])


def test_a_short_chunk_does_not_wait_for_a_long_one() -> None:
    done: list[tuple[int, float]] = []
    environment = simpy.Environment()
    table = replace(TABLE, send_ms=0.0, decode=Grid([1, 64], [1, 4096], [[1.0, 4096.0], [1.0, 4096.0]]))
    stage = Decode(environment, Device(environment, table.speed), table, LIMITS.max_streams)
    for slot, frames in enumerate((9, 1, 0, 3)):
        stage.put(Piece(slot, slot, 0, frames, "", lambda piece, _: done.append((piece.slot, environment.now * 1000))))
    environment.run()
    assert done == [(2, 0.0), (1, pytest.approx(1.0)), (3, pytest.approx(3.0)), (0, pytest.approx(9.0))]


def test_a_cancelled_call_is_generated_no_further() -> None:
    to_the_end, broken_off = (
        simulate(plain(0.2, 60, cancel_share=share, arrivals="constant"), TABLE, LIMITS).busy["generate"]
        for share in (0.0, 1.0)
    )
    assert broken_off < 0.8 * to_the_end


def test_a_stage_beside_a_busy_one_is_slower() -> None:
    """While decode and watermark work on the first chunk, generate goes on; on one device they share its speed."""
    shared = replace(TABLE, speed_when_busy=[1.0, 0.5])
    assert ttfa_ms(shared) == pytest.approx(LONE + DECODE + WATERMARK)
    assert ttfa_ms(replace(shared, on_host=["decode", "watermark"])) == pytest.approx(LONE)


@settings(max_examples=25, deadline=None)
@given(
    rate=st.floats(0.5, 40),
    cancel_share=st.sampled_from([0.0, 0.4]),
    chunk_frames=st.sampled_from([0, 1, 7]),
    blocks=st.sampled_from([70, 500]),
    overlaps=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_call_ends_once_and_leaves_nothing_behind(
    rate: float, cancel_share: float, chunk_frames: int, blocks: int, overlaps: bool, seed: int
) -> None:
    table = replace(TABLE, kv_blocks=blocks, overlaps=overlaps, speed_when_busy=[1.0, 0.6])
    load = plain(rate, 3.0, cancel_share=cancel_share, chunk_frames=chunk_frames, seed=seed, chars=30)
    server = Server(table, LIMITS)
    callers: list[Caller] = []

    def send(call: Call) -> None:
        callers.append(Caller(call, server))
        callers[-1].send()

    for call in calls(load):
        server.later(call.at_s or 0.0, lambda _, call=call: send(call))  # type: ignore[misc]
    server.environment.run()
    assert len(callers) == len(list(calls(load)))
    for answer in (caller.answer for caller in callers):
        assert answer.ended_s > answer.due_s
        times = [arrival.at_s for arrival in answer.arrivals]
        assert times == sorted(times)
        asked_s = (answer.call.request.max_audio_ms or 0) / 1000
        if answer.finish:
            assert answer.audio_s == pytest.approx(asked_s)
        elif answer.error:
            assert answer.error == "UNAVAILABLE"
        else:
            assert answer.call.listener == "cancels"
            assert answer.audio_s < asked_s + 0.001
    core = server.generate.core
    core.scheduler.check()
    assert not core.streams
    assert not core.scheduler.running
    assert core.scheduler.free_slots == LIMITS.max_streams
    assert core.scheduler.pool.available == blocks - 1


def test_the_same_seed_makes_the_same_answers() -> None:
    load = plain(6, 5)
    assert simulate(load, TABLE, LIMITS) == simulate(load, TABLE, LIMITS)
    assert simulate(load, TABLE, LIMITS) != simulate(replace(load, seed=1), TABLE, LIMITS)


def growing(per_stream: float) -> Grid:
    return Grid([1, 64], [1, 4096], [[ms, ms] for ms in (STEP, STEP + 63 * per_stream)])


def test_more_load_is_never_better() -> None:
    table = replace(TABLE, step=growing(3.0), speed_when_busy=[1.0, 0.5])
    found = [overall(simulate(plain(rate, 40), table, Limits(64, 64)).answers, 40) for rate in (0.5, 1, 2, 4, 8)]
    p95 = [math.inf if each["errors"] else each["ttfa_ms"]["p95"] for each in found]
    assert all(later > 0.97 * earlier for earlier, later in pairwise(p95))
    assert p95[-1] > 2 * p95[0]
    assert found[0]["continuity"] == 1 > found[-1]["continuity"]


def test_a_full_server_refuses() -> None:
    figures = overall(simulate(plain(20, 2), TABLE, Limits(max_streams=1, max_waiting=1)).answers, 2)
    assert figures["errors"]["UNAVAILABLE"] > 10
    assert figures["heard_to_the_end"] + figures["errors"]["UNAVAILABLE"] == figures["calls"]


def test_a_voice_is_prefilled_once() -> None:
    """The KV pool shares its blocks."""
    slow = replace(TABLE, prefill=Line([1, 1001], [0.0, 1000.0]))
    load = plain(0.5, 8, voices=("ann",), voice_share=1.0, arrivals="constant")
    first, *later = [answer.ttfa_s or 0 for answer in simulate(load, slow, LIMITS).answers]
    assert later
    assert all(0.1 < first - each < 0.2 for each in later)


def test_a_closed_loop_has_as_many_callers_as_it_says() -> None:
    spans = [(each.sent_s, each.ended_s) for each in simulate(Load(streams=3, seconds=6), TABLE, LIMITS).answers]
    assert max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans) == 3
    assert len(spans) > 6


def test_slow_readers_are_refused() -> None:
    with pytest.raises(ValueError, match="slow_share"):
        simulate(plain(1, 1, slow_share=0.1), TABLE, LIMITS)


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=8))
def test_a_shared_device_does_all_its_work_and_no_more(jobs: list[float]) -> None:
    environment = simpy.Environment()
    device = Device(environment, lambda count: 1 / count)
    ends: dict[int, float] = {}
    for number, seconds in enumerate(jobs):
        callbacks = device.work(seconds).callbacks
        assert callbacks is not None
        callbacks.append(lambda _, number=number: ends.update({number: environment.now}))  # type: ignore[misc]
    environment.run()
    assert device.busy_s == pytest.approx(sum(jobs)) == pytest.approx(max(ends.values()))
    for number, seconds in enumerate(jobs):  # by the time a job ends, each other has had as much, or all it wanted
        assert ends[number] == pytest.approx(sum(min(other, seconds) for other in jobs))


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
    return CliRunner().invoke(app, ["capacity", "--calls=50", *options])


def plan(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Return the plan of `misotts capacity` from its file, and what the command printed, as one line."""
    output = folder / "plan.json"
    result = run_capacity(*options, f"--output={output}")
    assert result.exit_code == 0, result.output
    return json.loads(output.read_text()), " ".join(result.output.split())


def test_capacity_answers_with_the_source_of_its_costs(tmp_path: Path) -> None:
    prices = ("--price=h100=2.5", "--price=h200=3.5")
    found, printed = plan(tmp_path, "--gpu=h100", "--max-streams=8", "--callers=400", "--continuity=0.9", *prices)
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
