"""The scheduler and the pool under random histories: a block always contains what its utterances need there."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from misotts.config import NO_SLOT
from misotts.engines.interface import Limits
from misotts.generate.blocks import SCRATCH, BlockPool
from misotts.generate.scheduler import Part, QueueFullError, Scheduler, TooLongError
from misotts.generate.utterance import Utterance
from misotts.order import Order

BLOCK = 4
LIMITS = Limits(max_streams=3, max_waiting=4, step_positions=10)


class SchedulerMachine(RuleBasedStateMachine):
    """Computes the scheduler's steps on a memory that records what every position was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(BlockPool(num_blocks=13, block_size=BLOCK), LIMITS)
        self.memory: dict[tuple[int, int], tuple[object, ...]] = {}
        self.utterances: list[Utterance] = []
        self.late: list[Utterance] = []  # frames sampled that have not been read back
        self.steps = 0
        self.progress: dict[Utterance, int] = {}

    def content(self, utterance: Utterance, position: int) -> tuple[object, ...]:
        """Return what a position's keys and values depend on: everything up to it."""
        length = len(utterance.order.frames)
        if position < length:
            return ("prompt", utterance.order.frames[: position + 1].tobytes())
        return ("frame", utterance.order.seed, utterance.order.frames.tobytes(), position - length)

    # Prompts of two symbols often begin alike.
    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=30),
        max_frames=st.integers(1, 20),
        twice=st.booleans(),
        lead_s=st.sampled_from([None, 10.0]),
    )
    def submit(self, prompt: list[int], max_frames: int, twice: bool, lead_s: float | None) -> None:
        for _ in range(1 + twice):
            order = Order(np.array(prompt, np.int32)[:, None], max_frames, seed=len(self.progress))
            utterance = Utterance(order, lead_s=lead_s)
            waiting = len(self.scheduler.ahead(utterance.batch))
            try:
                self.scheduler.add(utterance)
            except TooLongError:
                assert utterance.most_positions > 12 * BLOCK
            except QueueFullError:
                assert waiting >= LIMITS.max_waiting + self.scheduler.free_slots  # preempted ones wait too
            else:
                self.utterances.append(utterance)
                self.progress[utterance] = self.steps

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        paused = set(data.draw(st.lists(st.sampled_from(self.utterances), max_size=1))) if self.utterances else set()
        most = data.draw(st.integers(0, LIMITS.max_streams))
        running, slots = len(self.scheduler.running), self.scheduler.free_slots
        parts = self.scheduler.schedule(paused, most)
        assert slots - self.scheduler.free_slots <= max(most - running, 0)
        self.check_parts(parts, paused)
        self.perform(parts)
        self.steps += 1
        if data.draw(st.booleans()):
            self.read_back()

    @invariant()
    def batch_work_waits_behind_listeners(self) -> None:
        assert [u.batch for u in self.scheduler.waiting] == sorted(u.batch for u in self.scheduler.waiting)
        for batch in (False, True):
            begun = [u.slot != NO_SLOT for u in self.scheduler.waiting if u.batch == batch]
            assert begun == sorted(begun, reverse=True), "the preempted come first"

    def check_parts(self, parts: list[Part], paused: set[Utterance]) -> None:
        assert len({part.utterance for part in parts}) == len(parts)
        assert not paused.intersection(part.utterance for part in parts)
        prefills = sum(part.prefill for part in parts)
        assert [part.prefill for part in parts] == [False] * (len(parts) - prefills) + [True] * prefills
        assert sum(part.length for part in parts) <= LIMITS.largest_step(BLOCK)
        assert all(part.samples or part.length % BLOCK == 0 for part in parts)
        # Some utterance always continues, unless all running ones are paused or wait for their last codes.
        if self.scheduler.running and not parts:
            stuck = [u for u in self.scheduler.running if u not in paused and u.sampled < u.order.max_frames]
            assert not stuck

    def perform(self, parts: list[Part]) -> None:
        for part in parts:
            self.compute(part)
        self.scheduler.advance(parts)
        self.late += [part.utterance for part in parts if part.samples]

    def compute(self, part: Part) -> None:
        utterance = part.utterance
        end = utterance.cached + part.length
        for position in range(utterance.cached, end):
            block = utterance.blocks[position // BLOCK]
            assert block != SCRATCH
            holders = sum(block in other.blocks for other in self.scheduler.running)
            assert holders == 1, "a block is written that two utterances hold"
            self.memory[block, position % BLOCK] = self.content(utterance, position)
        for position in range(end):
            held = self.memory[utterance.blocks[position // BLOCK], position % BLOCK]
            assert held == self.content(utterance, position)

    @rule()
    def read_back(self) -> None:
        for utterance in self.late:
            if utterance in self.utterances:
                utterance.frames.append(np.array([1]))
                self.progress[utterance] = self.steps
                if len(utterance.frames) == utterance.order.max_frames:
                    self.end(utterance)
        self.late = []

    @precondition(lambda self: self.utterances)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.utterances)))

    def end(self, utterance: Utterance) -> None:
        self.scheduler.remove(utterance)
        self.scheduler.release_slot(utterance)
        self.utterances.remove(utterance)

    @invariant()
    def pool_is_whole(self) -> None:
        self.scheduler.check()

    @invariant()
    def slots_are_whole(self) -> None:
        slots = [u.slot for u in self.utterances if u.slot != NO_SLOT]
        assert len(set(slots)) == len(slots)
        assert len(slots) + self.scheduler.free_slots == LIMITS.max_streams
        assert all(u.slot != NO_SLOT for u in self.scheduler.running)

    def teardown(self) -> None:
        """Without new utterances, all come to their end."""
        self.read_back()
        for _ in range(2_000):
            if not self.utterances:
                break
            self.perform(self.scheduler.schedule())
            self.read_back()
        assert not self.utterances
        self.scheduler.check()
        assert self.scheduler.pool.available == self.scheduler.pool.capacity


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def utterance(prompt: list[int], max_frames: int = 4) -> Utterance:
    return Utterance(Order(np.array(prompt, np.int32)[:, None], max_frames, seed=0))


def drive(scheduler: Scheduler, steps: int) -> list[list[Part]]:
    done = []
    for _ in range(steps):
        done.append(scheduler.schedule())
        scheduler.advance(done[-1])
        for part in done[-1]:
            if part.samples:
                part.utterance.frames.append(np.array([1]))
            if len(part.utterance.frames) == part.utterance.order.max_frames:
                scheduler.remove(part.utterance)
                scheduler.release_slot(part.utterance)
    return done


def test_a_prompt_is_computed_once() -> None:
    scheduler = Scheduler(BlockPool(50, BLOCK), Limits(max_streams=4, max_waiting=9, step_positions=100))
    voice = list(range(2 * BLOCK + 1))
    scheduler.add(utterance([*voice, 90, 91]))
    (first,) = drive(scheduler, 1)
    scheduler.add(utterance([*voice, 80, 81, 82]))
    second = next(part for part in drive(scheduler, 1)[0] if part.prefill)
    assert (first[0].length, second.length) == (11, 12 - 2 * BLOCK)
    assert scheduler.pool.shared == 2


def test_a_prompt_that_is_fully_cached_still_computes_its_last_position() -> None:
    scheduler = Scheduler(BlockPool(50, BLOCK), Limits(max_streams=4, max_waiting=9, step_positions=100))
    for _ in range(2):
        scheduler.add(utterance(list(range(2 * BLOCK)), max_frames=1))
        (parts,) = drive(scheduler, 1)
    assert [(part.length, part.samples) for part in parts] == [(BLOCK, True)]


def test_a_long_prompt_does_not_delay_a_running_stream() -> None:
    scheduler = Scheduler(BlockPool(200, BLOCK), Limits(max_streams=4, max_waiting=9, step_positions=16))
    speaking = utterance([1], max_frames=60)
    scheduler.add(speaking)
    drive(scheduler, 1)
    scheduler.add(utterance(list(range(2, 302)), max_frames=2))
    for parts in drive(scheduler, 15):
        assert parts[0].utterance is speaking
        assert sum(part.length for part in parts) <= 16
    assert len(speaking.frames) == 16


@pytest.mark.parametrize("step_positions", [1, 6, 11])
def test_only_the_last_chunk_of_a_prompt_has_a_partial_block(step_positions: int) -> None:
    limits = Limits(max_streams=3, max_waiting=9, step_positions=step_positions)
    scheduler = Scheduler(BlockPool(50, BLOCK), limits)
    for first, length in ((0, 1), (100, 23), (200, 9)):
        scheduler.add(utterance(list(range(first, first + length)), max_frames=20))
    steps = drive(scheduler, 15)
    chunks = [part for parts in steps for part in parts if part.prefill]
    assert {part.length % BLOCK for part in chunks if not part.samples} == {0}
    assert [sum(p.length for p in chunks if len(p.utterance.order.frames) == n) for n in (1, 23, 9)] == [1, 23, 9]
    assert max(sum(part.length for part in parts) for parts in steps) <= limits.largest_step(BLOCK)


def test_the_youngest_is_preempted_and_runs_again() -> None:
    scheduler = Scheduler(BlockPool(7, BLOCK), Limits(max_streams=2, max_waiting=9, step_positions=16))
    old, young = utterance([1, 2, 3], max_frames=18), utterance([4, 5, 6], max_frames=18)
    scheduler.add(old)
    scheduler.add(young)
    drive(scheduler, 12)
    assert scheduler.preempted
    assert len(old.frames) > len(young.frames) > 0
    assert young.slot != NO_SLOT, "its stream continues later: it keeps the slot"
    drive(scheduler, 40)
    assert (len(old.frames), len(young.frames)) == (18, 18)


def test_batch_work_is_preempted_before_younger_listeners() -> None:
    scheduler = Scheduler(BlockPool(7, BLOCK), Limits(max_streams=2, max_waiting=9, step_positions=16))
    batch, listener = utterance([1, 2, 3], max_frames=18), utterance([4, 5, 6], max_frames=18)
    listener.lead_s = 10.0
    scheduler.add(batch)
    drive(scheduler, 1)
    scheduler.add(listener)
    drive(scheduler, 17)
    assert scheduler.preempted
    assert len(listener.frames) > len(batch.frames) > 0
    drive(scheduler, 40)
    assert (len(batch.frames), len(listener.frames)) == (18, 18)


def test_an_utterance_that_can_never_fit_is_refused() -> None:
    scheduler = Scheduler(BlockPool(4, BLOCK), LIMITS)
    with pytest.raises(TooLongError, match="4 KV blocks, the server has 3"):
        scheduler.add(utterance([1] * 10, max_frames=5))
