"""The core of the generate stage on a scripted engine: ends, errors, back-pressure, and that everything is freed."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from misotts.config import MAX_UNACKNOWLEDGED
from misotts.engines.interface import Limits
from misotts.generate.flow import BEGINNING_S
from misotts.generate.stream import SILENT_AFTER_S, Chunk
from misotts.generate.utterance import Utterance
from misotts_client.errors import DeadlineExceeded, Unavailable
from tests.support.scripted import CODEBOOKS, Inbox, ScriptedStage, utterance
from tests.support.scripted import numbered as never_ends

ZERO = [0] * CODEBOOKS


@pytest.fixture
def stage() -> ScriptedStage:
    return ScriptedStage(never_ends)


def ends_at(last: int) -> Callable[[int, int], list[int]]:
    return lambda seed, frame: ZERO if frame == last else never_ends(seed, frame)


def run(stage: ScriptedStage, steps: int = 500) -> None:
    """Step until every stream is forgotten; everything is free then."""
    for _ in range(steps):
        stage.step()
        if not stage.core.streams:
            break
    assert not stage.core.streams
    scheduler = stage.core.scheduler
    scheduler.check()
    assert scheduler.pool.available == scheduler.pool.capacity
    assert scheduler.free_slots == scheduler.limits.max_streams
    assert not scheduler.running
    assert not scheduler.waiting


@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_frame_of_zeros_is_the_end_of_speech(last: int) -> None:
    stage = ScriptedStage(ends_at(last))
    inbox = stage.submit(utterance(seed=2, max_frames=20))
    run(stage)
    assert inbox.codes == [*(never_ends(2, frame) for frame in range(last)), ZERO]  # decode judges what it sounds like
    assert inbox.finish == "eos"
    assert [chunk.finish for chunk in inbox.chunks[:-1]] == [""] * (len(inbox.chunks) - 1)


def test_a_frame_with_one_code_above_zero_is_audio() -> None:
    stage = ScriptedStage(lambda seed, frame: [0] * (CODEBOOKS - 1) + [1])
    inbox = stage.submit(utterance(seed=1, max_frames=3))
    run(stage)
    assert (len(inbox.codes), inbox.finish) == (3, "length")


@pytest.mark.parametrize("max_frames", [1, 2, 7])
def test_length_ends_the_utterance_with_its_last_frame(stage: ScriptedStage, max_frames: int) -> None:
    inbox = stage.submit(utterance(seed=3, max_frames=max_frames))
    run(stage)
    assert (len(inbox.codes), inbox.finish) == (max_frames, "length")
    assert len(inbox.chunks[-1].codes) > 0


def test_chunks_have_the_size_of_the_request_and_are_numbered(stage: ScriptedStage) -> None:
    free = stage.submit(utterance(seed=1, max_frames=40))
    run(stage)
    fixed = stage.submit(utterance(seed=2, max_frames=10, chunk_frames=4))
    run(stage)
    assert len(free.chunks[0].codes) == 1
    assert len(free.codes) == 40
    assert [len(chunk.codes) for chunk in fixed.chunks] == [4, 4, 2]
    assert [chunk.index for chunk in fixed.chunks] == [0, 1, 2]


@pytest.mark.parametrize(("callers", "frames"), [(1, 1), (2, 1), (5, 4), (9, 8), (16, 8)])
def test_first_chunks_are_longer_where_many_streams_begin_at_once(callers: int, frames: int) -> None:
    """A first chunk has one frame of the 8 of a full one for each other stream that begins, of half of the 16 slots."""
    stage = ScriptedStage(never_ends, Limits(max_streams=16))
    inboxes = [stage.submit(utterance(seed=seed, max_frames=20)) for seed in range(1, callers + 1)]
    run(stage)
    assert {len(inbox.chunks[0].codes) for inbox in inboxes} == {frames}
    stage.now += BEGINNING_S
    later = stage.submit(utterance(seed=1, max_frames=20))
    run(stage)
    assert len(later.chunks[0].codes) == 1


def test_a_first_chunk_is_sent_before_the_other_chunks_of_its_step(stage: ScriptedStage) -> None:
    order = []

    class Ordered(Inbox):
        def chunk(self, chunk: Chunk) -> None:
            order.append((chunk.slot, chunk.index))
            super().chunk(chunk)

    for seed, begun in ((1, 0), (2, 0), (3, 2)):
        while stage.core.statistics.steps < begun:
            stage.step()
        stage.core.submit(utterance(seed=seed, max_frames=5, chunk_frames=1), Ordered(stage.core), stage.now)
    run(stage)
    assert order[:7] == [(1, 0), (0, 0), (1, 1), (0, 1), (2, 0), (1, 2), (0, 2)]


def test_long_prompts_are_prefilled_in_chunks_beside_running_streams() -> None:
    stage = ScriptedStage(never_ends, Limits(max_streams=4, max_waiting=8, step_positions=8))
    first = stage.submit(utterance(seed=1, max_frames=20))
    stage.step()
    stage.submit(utterance(seed=2, positions=30, max_frames=3))
    run(stage)
    assert all(step.lengths.sum() <= 8 for step in stage.steps)
    assert [int(length) for step in stage.steps for length in step.lengths if length > 1] == [3, *[4] * 6, 6]
    assert len(first.codes) == 20


@pytest.mark.parametrize("running", [0, 1])
def test_the_queue_is_bounded_and_the_error_says_when_to_try_again(running: int) -> None:
    """One slot and two places in the queue are three, also for a burst that comes before the first has its slot."""
    stage = ScriptedStage(never_ends, Limits(max_streams=1, max_waiting=2, step_positions=16))
    for seed in (1, 2, 3):
        stage.submit(utterance(seed=seed))
        if seed <= running:
            stage.step()
    with pytest.raises(Unavailable, match="try again in") as caught:
        stage.submit(utterance(seed=4))
    assert caught.value.retry_after_s
    run(stage)


def test_an_utterance_larger_than_the_pool_is_refused_at_once() -> None:
    stage = ScriptedStage(never_ends, num_blocks=4)
    with pytest.raises(Unavailable, match="KV blocks"):
        stage.submit(utterance(seed=1, positions=10, max_frames=10))
    run(stage, 1)


def test_a_full_pool_makes_utterances_wait() -> None:
    stage = ScriptedStage(never_ends, num_blocks=5)  # room for two utterances of 7 positions
    inboxes = [stage.submit(utterance(seed=seed)) for seed in range(1, 5)]
    stage.step()
    assert len(stage.core.scheduler.running) == 2
    run(stage)
    assert [inbox.finish for inbox in inboxes] == ["length"] * 4


def test_missing_acknowledgements_pause_only_their_own_stream(stage: ScriptedStage) -> None:
    slow = stage.submit(utterance(seed=1, max_frames=40, chunk_frames=1), acknowledges=False)
    quick = stage.submit(utterance(seed=2, max_frames=40, chunk_frames=1))
    for _ in range(60):
        stage.step()
    assert len(slow.chunks) == MAX_UNACKNOWLEDGED
    assert quick.finish == "length"
    slow.acknowledges = True
    stage.core.acknowledge(slow.chunks[-1].stream, slow.chunks[-1].index)  # covers those before it
    run(stage)
    assert (len(slow.codes), slow.finish) == (40, "length")


def test_an_acknowledgement_may_end_the_stream(stage: ScriptedStage) -> None:
    inbox = stage.submit(utterance(seed=1, max_frames=50))
    stage.step()
    stage.core.acknowledge(inbox.chunks[0].stream, 0, failed=True)
    run(stage)
    assert inbox.finish == "error: INTERNAL: a later stage failed"
    assert dict(stage.core.statistics.finished) == {"internal": 1}
    assert len(inbox.codes) < 5


def test_an_abandoned_stream_needs_no_acknowledgement(stage: ScriptedStage) -> None:
    spoken = utterance(seed=1, max_frames=50)
    stage.submit(spoken, acknowledges=False)
    stage.step()
    stage.core.abandon(spoken.stream)
    run(stage)


def test_a_first_chunk_is_short_while_a_slot_is_free(stage: ScriptedStage) -> None:
    """An utterance that came during the step waits for the next plan and not for a slot."""
    first = stage.submit(utterance(seed=1, max_frames=50))
    assert stage.core.plan(stage.now) is not None
    stage.submit(utterance(seed=2, max_frames=50))
    stage.core.collect(np.array([never_ends(1, 0)], np.int32), stage.now)
    assert [len(chunk.frames) for chunk in first.chunks] == [1]


def test_a_deadline_before_the_first_chunk_is_an_ordinary_refusal(stage: ScriptedStage) -> None:
    inbox = stage.submit(utterance(seed=1, deadline=-1.0))
    run(stage)
    assert isinstance(inbox.error, DeadlineExceeded)
    assert not inbox.chunks


def test_a_deadline_after_the_first_chunk_ends_the_stream_in_finish(stage: ScriptedStage) -> None:
    inbox = stage.submit(utterance(seed=1, max_frames=50, deadline=1.0))
    stage.step()
    stage.now = 1.0
    run(stage)
    assert inbox.finish == "error: DEADLINE_EXCEEDED: TIMEOUT_MS has passed"


def test_a_stream_that_a_later_stage_lost_is_ended_and_forgotten(stage: ScriptedStage) -> None:
    inbox = stage.submit(utterance(seed=1, max_frames=50, chunk_frames=1), acknowledges=False)
    stage.step()
    stage.now = SILENT_AFTER_S
    run(stage)
    assert inbox.finish == "error: INTERNAL: a later stage stopped answering"


def test_a_frame_sampled_after_the_end_is_dropped() -> None:
    """The engine is late: the next step is planned before the frame of zeros has been read."""
    stage = ScriptedStage(ends_at(2))
    inbox = stage.submit(utterance(seed=1, max_frames=50))
    for _ in range(6):
        stage.step(ready=False)
    assert inbox.codes == [never_ends(1, 0), never_ends(1, 1), ZERO]
    assert stage.core.statistics.frames == 4
    run(stage)


def test_streams_are_retired_no_more_often_than_the_interval() -> None:
    stage = ScriptedStage(never_ends, retire_every_s=1.0)
    spoken = utterance(seed=1, max_frames=50)
    stage.submit(spoken)
    stage.step()
    stage.core.abandon(spoken.stream)
    stage.step()
    assert stage.core.scheduler.running
    stage.now = 1.0
    stage.step()
    assert not stage.core.scheduler.running


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mix_gives_each_stream_its_own_frames_and_frees_everything(data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, 4))
    positions = data.draw(st.integers(1, 20))
    blocks = data.draw(st.integers(16, 40))
    stage = ScriptedStage(ends_at(9), Limits(slots, 100, positions), num_blocks=blocks)
    sent: list[tuple[Utterance, Inbox]] = []
    for seed in range(1, data.draw(st.integers(1, 10)) + 1):
        spoken = utterance(seed, data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20)))
        sent.append((spoken, stage.submit(spoken)))
        for _ in range(data.draw(st.integers(0, 4))):
            stage.step(ready=data.draw(st.booleans()))
        if data.draw(st.booleans()):
            stage.core.abandon(data.draw(st.sampled_from(sent))[0].stream)
    run(stage)
    for spoken, inbox in sent:
        if not inbox.chunks:
            continue
        frames = [codes for codes in inbox.codes if any(codes)]
        assert frames == [never_ends(spoken.order.seed, frame) for frame in range(len(frames))]
        if not inbox.finish.startswith("error"):
            assert len(frames) == min(spoken.order.max_frames, 9)
