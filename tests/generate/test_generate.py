"""The generate stage on scripted engines: ends, errors, back-pressure, and that everything taken is given back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misotts.config import MAX_UNACKNOWLEDGED
from misotts.engines.interface import Limits
from misotts.generate.delivery import PROBE_AFTER_S, PROBE_WAITING_AFTER_S, Chunk
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts_client.errors import DeadlineExceeded, Unavailable
from tests.support.scripted import CODEBOOKS, Inbox, make_generator, utterance
from tests.support.scripted import numbered as never_ends

ZERO = [0] * CODEBOOKS


def ends_at(last: int) -> Callable[[int, int], list[int]]:
    return lambda seed, frame: ZERO if frame == last else never_ends(seed, frame)


def run(generator: Generator, steps: int = 500) -> None:
    """Step until every utterance is forgotten."""
    for _ in range(steps):
        generator._streams._retired = 0.0  # every step looks after its streams, not only one every 10 ms
        generator.step()
        generator.hand_on()
        if not generator.streams:
            assert_all_free(generator)
            return
    raise AssertionError(f"{generator.streams} streams are left")


def assert_all_free(generator: Generator) -> None:
    pool = generator.scheduler.pool
    generator.scheduler.check()
    assert pool.available == pool.capacity
    assert generator.scheduler.free_slots == generator.scheduler.limits.max_streams
    assert not generator.scheduler.running
    assert not generator.scheduler.waiting


def submit(generator: Generator, spoken: Utterance, acknowledges: bool = True) -> Inbox:
    inbox = Inbox(generator, acknowledges)
    generator.submit(spoken, inbox)
    return inbox


@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_frame_of_zeros_is_the_end_of_speech(last: int) -> None:
    generator = make_generator(ends_at(last))
    inbox = submit(generator, utterance(seed=2, max_frames=20))
    run(generator)
    assert inbox.codes == [*(never_ends(2, frame) for frame in range(last)), ZERO]  # decode judges what it sounds like
    assert inbox.finish == "eos"
    assert [chunk.finish for chunk in inbox.chunks[:-1]] == [""] * (len(inbox.chunks) - 1)


def test_a_frame_with_one_code_above_zero_is_audio() -> None:
    generator = make_generator(lambda seed, frame: [0] * (CODEBOOKS - 1) + [1])
    inbox = submit(generator, utterance(seed=1, max_frames=3))
    run(generator)
    assert (len(inbox.codes), inbox.finish) == (3, "length")


@pytest.mark.parametrize("max_frames", [1, 2, 7])
def test_length_ends_the_utterance_with_its_last_frame(max_frames: int) -> None:
    generator = make_generator(never_ends)
    inbox = submit(generator, utterance(seed=3, max_frames=max_frames))
    run(generator)
    assert (len(inbox.codes), inbox.finish) == (max_frames, "length")
    assert len(inbox.chunks[-1].codes) > 0


def test_chunks_have_the_size_of_the_request_and_are_numbered() -> None:
    generator = make_generator(never_ends)
    free = submit(generator, utterance(seed=1, max_frames=40))
    fixed = submit(generator, utterance(seed=2, max_frames=10, chunk_frames=4))
    run(generator)
    assert len(free.chunks[0].codes) == 1
    assert len(free.codes) == 40
    assert [len(chunk.codes) for chunk in fixed.chunks] == [4, 4, 2]
    assert [chunk.index for chunk in fixed.chunks] == [0, 1, 2]


def test_a_first_chunk_goes_out_before_what_others_have_in_the_same_step() -> None:
    generator = make_generator(never_ends)
    order = []

    class Ordered(Inbox):
        def chunk(self, chunk: Chunk) -> None:
            order.append((chunk.slot, chunk.index))
            super().chunk(chunk)

    for seed, begun in ((1, 0), (2, 0), (3, 2)):
        while generator.statistics.steps < begun:
            generator.step()
        generator.submit(utterance(seed=seed, max_frames=5, chunk_frames=1), Ordered(generator))
    run(generator)
    assert order[:7] == [(1, 0), (0, 0), (1, 1), (0, 1), (2, 0), (1, 2), (0, 2)]


def test_long_prompts_are_prefilled_in_pieces_beside_decodes() -> None:
    generator = make_generator(never_ends, Limits(max_streams=4, max_waiting=8, step_positions=8))
    first = submit(generator, utterance(seed=1, max_frames=20))
    generator.step()
    submit(generator, utterance(seed=2, positions=30, max_frames=3))
    run(generator)
    batches = generator._engine._backbone.batches  # type: ignore[attr-defined]
    assert all(batch.lengths.sum() <= 8 for batch in batches)
    assert [int(length) for batch in batches for length in batch.lengths if length > 1] == [3, *[4] * 6, 6]
    assert len(first.codes) == 20


@pytest.mark.parametrize("running", [0, 1])
def test_the_line_is_bounded_and_says_when_to_come_back(running: int) -> None:
    """One slot and two places in line are three, also for a burst that comes before the first has sat down."""
    generator = make_generator(never_ends, Limits(max_streams=1, max_waiting=2, step_positions=16))
    for seed in (1, 2, 3):
        generator.submit(utterance(seed=seed), Inbox(generator))
        if seed <= running:
            generator.step()
    with pytest.raises(Unavailable, match="try again in") as caught:
        generator.submit(utterance(seed=4), Inbox(generator))
    assert caught.value.retry_after_s
    run(generator)


def test_what_the_pool_could_never_hold_is_refused_at_once() -> None:
    generator = make_generator(never_ends, num_blocks=4)
    with pytest.raises(Unavailable, match="KV blocks"):
        generator.submit(utterance(seed=1, positions=10, max_frames=10), Inbox(generator))
    run(generator, 1)


def test_a_full_pool_makes_utterances_wait() -> None:
    generator = make_generator(never_ends, num_blocks=5)  # room for two utterances of 7 positions
    inboxes = [submit(generator, utterance(seed=seed)) for seed in range(1, 5)]
    generator.step()
    assert len(generator.scheduler.running) == 2
    run(generator)
    assert [inbox.finish for inbox in inboxes] == ["length"] * 4


def test_a_slow_road_pauses_only_its_own_stream() -> None:
    generator = make_generator(never_ends)
    slow = submit(generator, utterance(seed=1, max_frames=40, chunk_frames=1), acknowledges=False)
    quick = submit(generator, utterance(seed=2, max_frames=40, chunk_frames=1))
    for _ in range(60):
        generator.step()
        generator.hand_on()
    assert len(slow.chunks) == MAX_UNACKNOWLEDGED
    assert quick.finish == "length"
    slow.acknowledges = True
    generator.acknowledge(slow.chunks[-1].stream, slow.chunks[-1].index)  # covers those before it
    run(generator)
    assert (len(slow.codes), slow.finish) == (40, "length")


def test_a_caller_who_left_frees_everything() -> None:
    generator = make_generator(never_ends)
    inbox = submit(generator, utterance(seed=1, max_frames=50))
    generator.step()
    generator.hand_on()
    generator.acknowledge(inbox.chunks[0].stream, 0, cancelled=True)
    run(generator)
    assert inbox.finish == "error: CANCELLED: the caller left"
    assert len(inbox.codes) < 5


def test_a_failure_of_a_later_stage_is_not_counted_as_a_caller_who_left() -> None:
    generator = make_generator(never_ends)
    inbox = submit(generator, utterance(seed=1, max_frames=50))
    generator.step()
    generator.hand_on()
    generator.acknowledge(inbox.chunks[0].stream, 0, failed=True)
    run(generator)
    assert inbox.finish == "error: INTERNAL: a later stage failed"
    assert dict(generator.statistics.finished) == {"internal": 1}


def test_an_abandoned_stream_needs_no_acknowledgement() -> None:
    generator = make_generator(never_ends)
    spoken = utterance(seed=1, max_frames=50)
    submit(generator, spoken, acknowledges=False)
    generator.step()
    generator.abandon(spoken.stream)
    run(generator)


def test_a_deadline_before_the_first_chunk_is_an_ordinary_refusal() -> None:
    generator = make_generator(never_ends)
    inbox = submit(generator, utterance(seed=1, deadline=time.monotonic() - 1))
    run(generator)
    assert isinstance(inbox.error, DeadlineExceeded)
    assert not inbox.chunks


def test_a_deadline_after_the_first_chunk_is_told_in_finish() -> None:
    generator = make_generator(never_ends)
    spoken = utterance(seed=1, max_frames=50)
    inbox = submit(generator, spoken)
    generator.step()
    spoken.order = replace(spoken.order, deadline=time.monotonic() - 1)
    run(generator)
    assert inbox.finish == "error: DEADLINE_EXCEEDED: TIMEOUT_MS has passed"


def test_a_quiet_stream_is_probed() -> None:
    generator = make_generator(never_ends, Limits(max_streams=1, max_waiting=8, step_positions=16))
    running = submit(generator, utterance(seed=1, max_frames=50, chunk_frames=25))
    waiting = submit(generator, utterance(seed=2, max_frames=50))
    generator.step()
    time.sleep(PROBE_AFTER_S + 0.01)
    generator.step()
    generator.hand_on()
    assert [len(chunk.codes) for chunk in running.chunks] == [0]
    assert not waiting.chunks, "one that waits holds nothing that is in a hurry to be free"
    time.sleep(PROBE_WAITING_AFTER_S - PROBE_AFTER_S)
    generator.step()
    generator.hand_on()
    assert [len(chunk.codes) for chunk in waiting.chunks] == [0]
    assert running.finish == waiting.finish == ""
    generator.acknowledge(waiting.chunks[0].stream, 0, cancelled=True)
    generator.acknowledge(running.chunks[0].stream, 0, cancelled=True)
    run(generator)


def test_a_failing_engine_ends_every_stream_and_is_seen() -> None:
    def fails(seed: int, frame: int) -> list[int]:
        if frame == 2:
            raise RuntimeError("the engine is gone")
        return never_ends(seed, frame)

    generator = make_generator(fails)
    inboxes = [submit(generator, utterance(seed=seed, chunk_frames=1)) for seed in (1, 2)]
    generator.start()
    limit = time.monotonic() + 10
    while not all(inbox.chunks and inbox.finish for inbox in inboxes):
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert [inbox.finish for inbox in inboxes] == ["error: INTERNAL: the generate stage failed"] * 2
    assert isinstance(generator.failure, RuntimeError)
    with pytest.raises(Unavailable, match="has failed"):
        submit(generator, utterance(seed=2))
    with pytest.raises(Unavailable):
        generator.submit(utterance(seed=3), Inbox(generator))
    generator.close()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mix_gives_each_its_own_frames_and_everything_back(data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, 4))
    positions = data.draw(st.integers(1, 20))
    blocks = data.draw(st.integers(16, 40))
    generator = make_generator(ends_at(9), Limits(slots, 100, positions), num_blocks=blocks)
    sent: list[tuple[Utterance, Inbox]] = []
    for seed in range(1, data.draw(st.integers(1, 10)) + 1):
        spoken = utterance(seed, data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20)))
        sent.append((spoken, submit(generator, spoken)))
        for _ in range(data.draw(st.integers(0, 4))):
            generator.step()
            generator.hand_on()
        if data.draw(st.booleans()):
            generator.abandon(data.draw(st.sampled_from(sent))[0].stream)
    run(generator)
    for spoken, inbox in sent:
        if not inbox.chunks:
            continue
        frames = [codes for codes in inbox.codes if any(codes)]
        assert frames == [never_ends(spoken.order.seed, frame) for frame in range(len(frames))]
        if not inbox.finish.startswith("error"):
            assert len(frames) == min(spoken.order.max_frames, 9)
