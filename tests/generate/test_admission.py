"""Admission: as many utterances as the step time allows, true waits, and refusals that say when to come again."""

import heapq
import math
from collections import Counter
from itertools import pairwise
from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misotts.generate.admission import RECOVER_S, Admission
from misotts.generate.core import PATIENCE
from misotts.generate.flow import AdmissionRule, FlowOptions
from misotts_client.errors import Unavailable
from misotts_gateway.admission import Admission as GatewayAdmission
from tests.support.paced import FRAME_S, Machine, overload

PACE = FlowOptions(admission="pace")


def feed(admission: Admission, fixed_s: float, each_s: float, slots: int, seconds: float) -> list[int]:
    """Let as many streams run as may; return how many in each tenth of a second."""
    told: list[int] = []
    now = 0.0
    while now < seconds:
        step_s = max(fixed_s + each_s * admission.proven, 0.01)
        for _ in range(math.ceil(0.1 / step_s)):
            now += step_s
            admission.add_time(step_s, admission.proven, admission.proven, now)
        admission.refresh(now)
        told.append(admission.proven)
    return told


@settings(max_examples=25, deadline=None)
@given(fixed_s=st.floats(0, 0.06), each_s=st.floats(0.0001, 0.06), slots=st.integers(1, 256))
def test_as_many_run_as_the_step_time_allows(fixed_s: float, each_s: float, slots: int) -> None:
    """If a step takes a + b n, at most one too many is tried, once in `RECOVER_S`."""
    carried = int((FRAME_S - fixed_s) / each_s + 1e-9)
    told = feed(Admission(PACE, slots), fixed_s, each_s, slots, 25.0)
    assert max(told) <= max(min(carried + 1, slots), 1)
    at_least = int((0.9 * FRAME_S - fixed_s) / each_s)
    settled = told[len(told) // 2 :]
    assert sorted(settled)[len(settled) // 4] >= min(0.85 * at_least - 1, slots)
    assert sum(one != two for one, two in pairwise(settled)) <= 2 * (1 + 12.5 / RECOVER_S)


def test_without_pace_every_slot_may_be_used() -> None:
    admission = Admission(FlowOptions(), 16)
    assert set(feed(admission, 0.2, 0.1, 16, 30.0)) == {16}


def test_a_disturbance_passes() -> None:
    admission = Admission(PACE, 16)
    feed(admission, 0.03, 0.002, 16, 10.0)
    before = admission.proven
    for n in range(100):
        admission.add_time(0.12, before, before, 20.0 + n * 0.12)
        admission.refresh(20.0 + n * 0.12)
    assert admission.proven < before == 16
    feed(admission, 0.03, 0.002, 16, 120.0)
    assert admission.proven == before


@pytest.mark.parametrize("times", [3, 10])
@pytest.mark.parametrize(("fixed_s", "each_s"), [(0.0, 0.01), (0.03, 0.01)])
def test_the_accepted_of_an_overloaded_server_never_run_out(times: float, fixed_s: float, each_s: float) -> None:
    machine = Machine(PACE, 32, fixed_s, each_s)
    carried = int((FRAME_S - fixed_s) / each_s)
    listeners = overload(machine, times * carried / (37 * FRAME_S), 40.0, seed=1)
    served = [each for each in listeners if each.finish == "eos"]
    assert sum(each.silent_s() > 0.02 for each in served) == 0
    assert all(each.waited_s <= PATIENCE * PACE.max_wait_s + 1 for each in served)
    used = sum(frames for each in served for at, frames in each.arrivals if 10 < at < 40) * FRAME_S / 30
    assert used >= 0.9 * int((0.8 * FRAME_S - fixed_s) / each_s)
    late = [each for each in listeners if each.asked > 10]
    refused = [each for each in late if each.error]
    assert len(refused) >= 0.8 * (1 - 1 / times) * len(late)
    assert len(refused) + sum(each.finish == "eos" for each in late) == len(late)
    waits = [(each.expected_s, each.waited_s) for each in late if each.finish and each.waited_s > 0.5]
    assert sum(0.5 <= expected / waited <= 2 for expected, waited in waits) >= 0.9 * len(waits) > 10


@pytest.mark.parametrize(("fixed_s", "each_s"), [(0.01, 0.004), (0.02, 0.003)])
def test_the_accepted_rarely_run_out_on_a_machine_with_other_work(fixed_s: float, each_s: float) -> None:
    """One step in a hundred takes 50 to 250 ms longer."""
    machine = Machine(PACE, 16, fixed_s, each_s)
    machine.noise = Random(4)
    listeners = overload(machine, 3 * 16 / (37 * FRAME_S), 40.0, seed=1)
    served = [each for each in listeners if each.finish == "eos" and each.asked > 5]
    late = [each for each in served if each.silent_s() > 0.02]
    assert len(late) <= 0.02 * len(served)
    used = sum(frames for each in served for at, frames in each.arrivals if 10 < at < 40) * FRAME_S / 30
    assert used >= 12


def test_a_new_server_refuses_with_pace_in_true_words() -> None:
    """It lets in one more in 0.75 s, and has told each of the burst that it need not wait."""
    machine = Machine(PACE, 16, 0.05, 0.001, later_s=0.001)
    burst = [machine.ask(60, 180) for _ in range(16)]
    machine.run_until(20)
    refused = [each.error for each in burst if each.error]
    assert 0 < len(refused) < 14
    assert all("it has waited 4.0 s for a slot, at most 2 s are allowed" in str(error) for error in refused)
    assert all((error.retry_after_s or 0.0) >= PACE.again_s for error in refused)


def test_a_refusal_says_when_a_place_is_free() -> None:
    """A burst of ten times the slots: a request that comes again after the time it was told is served."""
    machine = Machine(FlowOptions(max_wait_s=2.0), 8, 0.03, 0.001)
    overload(machine, 2.0, 10.0, seed=2)
    machine.listeners.clear()
    burst = [machine.ask(50, 150) for _ in range(80)]
    told = [each.error.retry_after_s for each in burst if each.error]
    assert 30 < len(told) < 79
    began, free_at = machine.now, None
    while free_at is None:
        machine.run_until(machine.now + 0.05)
        if machine.core.wait_s() <= machine.core.admission.options.again_s:
            free_at = machine.now
    assert all(each is not None and 0.5 <= each / (free_at - began) <= 2 for each in told)


def test_frames_in_the_later_stages_are_waited_for() -> None:
    """An utterance has its slot until its last chunk has left them."""
    admission = Admission(FlowOptions(), 2)
    for n in range(8):
        admission.add_time(0.25, 2, 10, n * 0.25)
    admission.refresh(2.0)
    assert admission.frame_s == pytest.approx(0.05)
    assert admission.waits([(40, 40, 20), (40, 40, 10)], [], 1) == pytest.approx([0.5])


def refuses(gateway: GatewayAdmission) -> bool:
    try:
        gateway.leave(gateway.enter(None))
    except Unavailable:
        return True
    return False


def told_by_the_gateway(rng: Random, spread: float) -> tuple[list[float], float]:
    """Let a burst come to a server of random size and speed that is idle, has some slots free, or has a queue. Return
    the delays told to its refused requests, and the time until it takes another one."""
    slots, max_waiting, frames = rng.randint(1, 24), rng.randint(0, 40), 40
    fixed_s, each_s = rng.uniform(0.005, 0.06), rng.uniform(0.0, 0.004)
    later_s = rng.choice([0.0, rng.uniform(0.5, 1.5) * (fixed_s + each_s * slots) / slots])
    machine = Machine(FlowOptions(), slots, fixed_s, each_s, max_waiting, later_s)

    def ask() -> None:
        length = round(frames * rng.uniform(1 - spread, 1 + spread))
        machine.ask(length, 3 * length)

    full_s, load = frames * max(fixed_s + each_s * slots, later_s * slots), rng.uniform(1.2, 3)
    for _ in range(round(6 * load * slots)):
        ask()
        machine.run_until(machine.now + full_s / slots / load)
    machine.run_until(machine.now + rng.uniform(0, 4))
    gateway, told = GatewayAdmission(lambda: machine.now), []
    gateway.hear(machine.core.figures())
    for _ in range(slots + max_waiting + 5):
        try:
            gateway.enter(None)
            ask()
        except Unavailable as error:
            told.append(error.retry_after_s or 0.0)
    began = machine.now
    while refuses(gateway):
        machine.run_until(machine.now + 0.02)
        gateway.hear(machine.core.figures())
    return told, machine.now - began


@pytest.mark.parametrize(("spread", "true"), [(0.0, 0.9), (0.3, 0.9)])
def test_the_gateway_tells_each_refused_request_of_a_burst_when_a_place_is_free(spread: float, true: float) -> None:
    """Within a factor of two or 0.1 s, the time between two reports. Some miss it: lengths are not known beforehand."""
    rng = Random(3)
    bursts = [told_by_the_gateway(rng, spread) for _ in range(25)]
    assert all(told for told, _ in bursts)
    near = [
        all(min(free_s / 2, free_s - 0.1) <= each <= max(2 * free_s, free_s + 0.1) for each in told)
        for told, free_s in bursts
    ]
    assert sum(near) >= true * len(near)


@pytest.mark.parametrize(("times", "lead_s", "lead_ms"), [(3, 10, None), (10, 10, None), (3, 10, 0), (3, 0, None)])
def test_the_gateway_spares_generate_nearly_all_that_it_would_refuse(
    times: float, lead_s: float, lead_ms: int | None
) -> None:
    """An overload of requests that take 50 to 150 ms from the gateway to `generate`, as on a busy host."""
    machine, rng, began_s, end_s = Machine(FlowOptions(lead_s), 16, 0.02, 0.002), Random(1), 5.0, 20.0
    gateway = GatewayAdmission(lambda: machine.now)
    per_s = times * 16 / (37 * (0.02 + 0.002 * 16))
    events = [(n / 10, "report") for n in range(round(end_s * 10))]
    while events[-1][0] < end_s or events[-1][1] == "report":
        at = events[-1][0] if events[-1][1] == "call" else 0.0
        events.append((at + rng.expovariate(per_s), "call"))
    heapq.heapify(events)
    counts: Counter[str] = Counter()
    while events:
        at, what = heapq.heappop(events)
        machine.run_until(at)
        if what == "report":
            gateway.hear(machine.core.figures())
        elif what == "submit":
            length = rng.randrange(25, 50)
            counts["refused" if machine.ask(length, 3 * length, lead_ms=lead_ms).error else "accepted"] += at > began_s
        else:
            try:
                gateway.enter(lead_ms)
                heapq.heappush(events, (at + rng.uniform(0.05, 0.15), "submit"))
            except Unavailable:
                counts["spared"] += at > began_s
    assert counts["refused"] <= 0.02 * counts["spared"]
    assert counts["accepted"] * times >= 0.9 * (counts["accepted"] + counts["spared"])


@pytest.mark.parametrize("rule", get_args(AdmissionRule))
@pytest.mark.parametrize(("lead_ms", "chunk_frames"), [(1, 0), (300, 0), (1000, 25)])
def test_a_caller_with_a_small_lead_takes_nothing_from_others(
    rule: AdmissionRule, lead_ms: int, chunk_frames: int
) -> None:
    """A machine far below its limit: others are served at once, and batch work goes on."""
    machine = Machine(FlowOptions(admission=rule), 16, 0.005, 0.001, later_s=0.002)
    for _ in range(16):
        machine.ask(20, 60)
    machine.run_until(6)
    small = machine.ask(300, 300, lead_ms=lead_ms, chunk_frames=chunk_frames)
    machine.run_until(9)
    batch, others = machine.ask(100, 100, lead_ms=0), []
    for second in range(10, 18):
        others.append(machine.ask(20, 60))
        machine.run_until(second)
    assert machine.core.admission.proven == 16
    assert all(each.finish == "eos" and each.waited_s < 0.1 for each in others[:-2])
    assert (batch.finish, small.silent_s()) == ("length", 0)


@pytest.mark.parametrize("plan_s", [0.001, 0.05])
@pytest.mark.parametrize("max_wait_s", [0.0, 0.005])
def test_no_wait_is_needed_where_a_slot_is_free(max_wait_s: float, plan_s: float) -> None:
    """The plan that gives out slots comes some time after the request."""
    machine = Machine(FlowOptions(max_wait_s=max_wait_s), 4, 0.005, 0.001)
    for _ in range(4):
        machine.ask(20, 60)
    machine.now += plan_s
    machine.run_until(3)
    assert [each.finish for each in machine.listeners] == ["eos"] * 4
    for _ in range(5):
        machine.ask(20, 60)
    machine.run_until(6)
    assert [each.finish for each in machine.listeners[4:8]] == ["eos"] * 4
    assert "at most" in str(machine.listeners[8].error)


def test_batch_work_that_has_waited_too_long_is_told_its_own_wait() -> None:
    """Others of its kind wait before it, which a listener would not wait for."""
    machine = Machine(FlowOptions(max_wait_s=10.0), 2, 0.02, 0.01)
    for _ in range(4):
        machine.ask(50, 50)
    machine.run_until(8)
    batch = [machine.ask(50, 50, lead_ms=0) for _ in range(20)]
    machine.run_until(9)
    machine.core.admission.options = FlowOptions(max_wait_s=0.5)
    machine.run_until(9.2)
    late = [each.error for each in batch if each.error and "it has waited" in str(each.error)]
    assert len(late) > 5
    assert max(error.retry_after_s or 0.0 for error in late) > 2 * machine.core.wait_s()


def test_an_utterance_that_was_accepted_in_error_is_refused_after_all() -> None:
    machine = Machine(FlowOptions(max_wait_s=0.5), 1, 0.02, 0.0)
    for _ in range(2):
        machine.ask(100, 150)
    machine.run_until(2.0)
    second = machine.listeners[1]
    assert second.finish.startswith("error: UNAVAILABLE") or second.error
    assert second.first is None


def test_listeners_come_before_batch_work() -> None:
    machine = Machine(FlowOptions(max_wait_s=60), 2, 0.02, 0.001, max_waiting=3)
    batch = [machine.ask(50, 50, lead_ms=0) for _ in range(7)]
    assert [each.error is not None for each in batch] == [False] * 5 + [True] * 2
    listeners = [machine.ask(50, 50) for _ in range(3)]
    machine.run_until(30)
    firsts = [each.first or 0.0 for each in listeners]
    assert not any(each.error for each in listeners)
    assert max(firsts) < min(each.first or 0.0 for each in batch[2:5])
