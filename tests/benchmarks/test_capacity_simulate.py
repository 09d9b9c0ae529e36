"""The capacity simulator against figures worked out by hand."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.device import Device
from benchmarks.capacity.simulate import Caller, Server, simulate
from benchmarks.capacity.stages import Decode, Piece, Watermark
from benchmarks.costs.table import CostTable, Grid, Line
from benchmarks.load.caller import Answer
from benchmarks.load.plan import Call, Load, calls
from benchmarks.load.playback import play
from benchmarks.load.summary import overall
from misotts.config import FRAME_SAMPLES, SAMPLE_RATE
from misotts.engines.interface import Limits
from misotts.generate.flow import AdmissionRule, FlowOptions
from misotts.hold_back import GRADUAL, HoldBack
from tests.support.constant_costs import DECODE, HOLD_BACK, LIMITS, LONE, SEND, STEP, TABLE, WATERMARK, flat, growing


def plain(rate: float, seconds: float, **changes: Any) -> Load:
    return Load(rate=rate, seconds=seconds, **changes)


def alone(table: CostTable) -> Answer:
    """Simulate one call on an idle server."""
    (answer,) = simulate(plain(1, 0.001, arrivals="constant"), table, LIMITS).answers
    return answer


def ttfa_ms(table: CostTable) -> float:
    return (alone(table).ttfa_s or 0) * 1000


PROMPT_POSITIONS = TABLE.prompt.positions(len(next(calls(plain(1, 1, arrivals="constant"))).request.text))


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_lone_callers_first_audio_is_the_sum_of_its_way(overlaps: bool) -> None:
    assert ttfa_ms(replace(TABLE, overlaps=overlaps)) == pytest.approx(LONE)


def test_a_lone_callers_last_audio_is_a_step_for_every_frame() -> None:
    answer = alone(TABLE)
    frames = round(answer.audio_s * SAMPLE_RATE / FRAME_SAMPLES)
    assert answer.finish == "length"
    assert frames > HOLD_BACK
    assert answer.ended_s * 1000 == pytest.approx(LONE + (frames - HOLD_BACK - 1) * STEP)


def test_a_stream_that_starts_at_once_waits_for_one_step_and_its_early_mark() -> None:
    answer = alone(replace(TABLE, hold_back=HoldBack(HOLD_BACK, GRADUAL)))
    assert (answer.ttfa_s or 0) * 1000 == pytest.approx(LONE - HOLD_BACK * STEP + WATERMARK)
    assert play(answer.arrivals).underrun_s == 0
    assert answer.audio_s == alone(TABLE).audio_s


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
    (call,) = [
        replace(call, cancel_after_s=math.inf)
        for call in calls(plain(1, 0.001, arrivals="constant", chars=200, lead_ms=1000))
    ]
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
    """Two calls come at once. The later call's chunk goes first; the other one is one message later."""
    load = plain(1, 1, chunk_frames=1)
    both = [replace(call, at_s=0.0) for call, _ in zip(calls(plain(9, 9)), range(2), strict=False)]
    table = replace(TABLE, decode=flat(0), watermark=flat(0), prompt=replace(TABLE.prompt, ms=0.0))

    def ttfas_ms(send_ms: float) -> list[float]:
        run = simulate(load, replace(table, send_ms=send_ms), LIMITS, both)
        return [(answer.ttfa_s or 0) * 1000 for answer in run.answers]

    at_once, late = ttfas_ms(0.0), ttfas_ms(SEND)
    assert at_once[0] == pytest.approx(at_once[1])
    assert late == pytest.approx([at_once[0] + SEND, at_once[1]])


@pytest.mark.parametrize(("stage", "each_ms"), [(Decode, 3.0), (Watermark, 5.0)])
def test_a_stage_works_on_while_its_chunks_are_sent(stage: type[Decode] | type[Watermark], each_ms: float) -> None:
    done: list[tuple[int, float]] = []
    environment, table = simpy.Environment(), replace(TABLE, send_ms=3.0, send_out_ms=5.0, decode=flat(1))
    table = replace(table, watermark=flat(1))
    worker = stage(environment, Device(environment, table.speed), table, LIMITS.max_streams)
    for index in range(3):  # of one stream, so that each is a batch
        note = lambda piece, _: done.append((piece.index, round(environment.now * 1000, 6)))  # noqa: E731
        worker.put(Piece(1, 1, index, 20, "", note))
    environment.run(until=1)
    assert done == [(index, 1 + each_ms * index) for index in range(3)]
    assert worker.busy_s == pytest.approx(0.003)
    assert worker.sender.busy_s == pytest.approx(3 * each_ms / 1000)


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


def test_more_load_is_never_better() -> None:
    table = replace(TABLE, step=growing(3.0), speed_when_busy=[1.0, 0.5])
    found = [overall(simulate(plain(rate, 40), table, Limits(64, 64)).answers, 40) for rate in (0.5, 1, 2, 4, 8)]
    p95 = [math.inf if each["errors"] else each["ttfa_ms"]["p95"] for each in found]
    assert all(later > 0.97 * earlier for earlier, later in pairwise(p95))
    assert p95[-1] > 2 * p95[0]
    assert found[0]["continuity"] == 1 > found[-1]["continuity"]


def test_the_busy_time_of_a_window_is_that_of_the_whole_run_within_it() -> None:
    load = plain(4, 6)

    def busy(*window: float) -> dict[str, float]:
        return simulate(load, TABLE, LIMITS, window=window or None).busy  # type: ignore[arg-type]

    whole, parts = busy(), [busy(0, 2), busy(2, 5), busy(5, 100)]
    for stage, busy_s in whole.items():
        assert sum(part[stage] for part in parts) == pytest.approx(busy_s)
    assert parts[0]["generate"] == pytest.approx(2, abs=0.6)


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
