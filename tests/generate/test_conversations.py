"""Conversations in the core: which turns a prompt contains, and that every end frees what it held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from misotts.config import FRAME_MS, MASKED
from misotts.engines.interface import Limits
from misotts.generate.blocks import BlockPool
from misotts.generate.conversation import newest
from misotts.generate.conversations import OVERLAP_S, SessionOptions
from misotts.generate.core import Core
from misotts.generate.flow import FlowOptions
from misotts.generate.stream import SILENT_AFTER_S, deliver
from misotts.generate.utterance import Utterance
from misotts.order import Order
from misotts_client.errors import InvalidArgument, Unavailable
from tests.support.scripted import CODEBOOKS, Inbox, ScriptedStage, numbered, utterance


@pytest.fixture
def stage() -> ScriptedStage:
    return ScriptedStage(numbered)


def turn(seed: int, ticket: int, session: str = "a", **fields: Any) -> Utterance:
    return utterance(seed=seed, ticket=ticket, session=session, **fields)


def run(stage: ScriptedStage, spoken: Utterance) -> Inbox:
    """Speak a turn to its end; its caller takes everything."""
    inbox = stage.submit(spoken)
    while spoken.stream in stage.core.streams:
        stage.step()
        stage.core.take(spoken.order.ticket, len(spoken.frames))
    stage.core.scheduler.check()
    return inbox


def prompt_of(stage: ScriptedStage, *texts_and_frames: tuple[int, int]) -> list[list[int]]:
    """Return the rows of turns of `utterance(seed)`, each with so many frames and its end."""
    rows = []
    for seed, frames in texts_and_frames:
        rows += [[MASKED] * CODEBOOKS + [seed]] * 3
        rows += [[*numbered(seed, frame), MASKED] for frame in range(frames)] + [[0] * CODEBOOKS + [MASKED]]
    return rows


def test_a_prompt_has_the_turns_before_as_far_as_they_were_heard(stage: ScriptedStage) -> None:
    assert run(stage, turn(1, 1)).chunks[-1].session_turns == 0
    second = turn(2, 2)
    assert run(stage, second).chunks[0].session_turns == 1
    assert second.order.frames[:-3].tolist() == prompt_of(stage, (1, 5))
    third = turn(3, 3, heard_ms=2 * FRAME_MS + 79)
    assert run(stage, third).chunks[0].session_turns == 2
    assert third.order.frames[:-3].tolist() == prompt_of(stage, (1, 5), (2, 2))
    other = turn(3, 4, session="b")
    assert run(stage, other).chunks[0].session_turns == 0
    ignored = turn(4, 5, heard_ms=FRAME_MS - 1)
    run(stage, ignored)
    assert ignored.order.frames[:-3].tolist() == prompt_of(stage, (1, 5), (2, 2)), "less than a frame was heard"


def test_a_turn_computes_only_its_own_positions(stage: ScriptedStage) -> None:
    """Each has 3 positions of text and 5 frames; blocks have 4 positions."""
    computed = []
    for number in range(1, 7):
        before = stage.core.statistics.prefilled
        run(stage, turn(number, number))
        computed.append(stage.core.statistics.prefilled - before)
    assert computed[0] == 3
    # What is new: the end of the last turn and the text. Beside it at most the last frame and a part of a block.
    assert max(computed) <= 1 + 3 + 1 + 3


@pytest.mark.parametrize("finished", [False, True])
def test_a_turn_right_after_a_cancel_waits_for_the_old_one(stage: ScriptedStage, finished: bool) -> None:
    """The caller has 2 frames; the note that it has left comes before the next turn or just behind it."""
    for note_first in (True, False):
        session = f"{note_first}"
        old = turn(1, 1 + note_first, session=session, max_frames=4 if finished else 60)
        inbox = stage.submit(old)
        for _ in range(6):
            stage.step()
        assert bool(inbox.finish) == finished
        if note_first:
            stage.core.take(old.order.ticket, 2, gone=True)
        following = turn(2, 3 + note_first, session=session, heard_ms=None if note_first else 2 * FRAME_MS)
        next_inbox = stage.submit(following)
        if not note_first:
            stage.step()
            stage.core.take(old.order.ticket, 2, gone=True)
        for _ in range(20):
            stage.step()
        assert not next_inbox.error
        assert following.order.frames[:-3].tolist() == prompt_of(stage, (1, 2))
        assert next_inbox.finish == "length"
        assert inbox.finish == ("length" if finished else "error: CANCELLED: the caller left")


def test_of_two_turns_that_overlap_the_second_is_refused(stage: ScriptedStage) -> None:
    first, second = stage.submit(turn(1, 1, max_frames=40)), stage.submit(turn(2, 2))
    stage.step()
    assert not second.error
    stage.now = OVERLAP_S
    while stage.core.streams:
        stage.step()
    assert isinstance(second.error, InvalidArgument)
    assert second.error.field == "SESSION"
    assert not second.chunks
    counts = stage.core.statistics
    assert (counts.submitted, counts.rejected, counts.finished) == (2, 0, {"length": 1, "invalid_argument": 1})
    assert first.finish == "length"
    assert first.codes == [numbered(1, frame) for frame in range(40)]
    assert run(stage, turn(3, 3)).chunks[0].session_turns == 1


def test_the_turns_that_wait_are_bounded() -> None:
    stage = ScriptedStage(numbered, Limits(max_streams=1, max_waiting=2))
    stage.submit(turn(1, 1, max_frames=40))
    for number in (2, 3):
        stage.submit(turn(number, number))
    with pytest.raises(Unavailable, match="2 turns wait"):
        stage.submit(turn(4, 4))


@pytest.mark.parametrize("end", ["failed", "late", "silent", "left at once", "too long", "closed"])
def test_a_turn_that_failed_leaves_no_trace(stage: ScriptedStage, end: str) -> None:
    run(stage, turn(1, 1))
    pool, size = stage.core.scheduler.pool, stage.core.conversations.bytes
    known = set(pool.keys)
    failing = turn(2, 2, max_frames=50, heard_ms=FRAME_MS, deadline=1.0 if end == "late" else None)
    if end == "too long":
        failing.order.__dict__["max_frames"] = 10_000
        with pytest.raises(Unavailable):
            stage.submit(failing)
    else:
        inbox = stage.submit(failing, acknowledges=end != "silent")
        if end == "left at once":
            stage.core.take(2, 0, gone=True)
        for _ in range(12):
            stage.step()
        if end == "failed":
            stage.core.acknowledge(failing.stream, 0, failed=True)
        elif end == "closed":
            stage.core.close(Unavailable("the server stops"), stage.now)
            assert inbox.finish
            return
        stage.now += SILENT_AFTER_S
        for _ in range(5):
            stage.step()
    assert not stage.core.streams
    assert set(pool.keys) == known, "the blocks are empty again"
    assert stage.core.conversations.bytes == size
    following = turn(3, 3)
    run(stage, following)
    assert following.order.frames[:-3].tolist() == prompt_of(stage, (1, 5))


def test_conversations_are_bounded_and_forgotten_with_their_blocks() -> None:
    stage = ScriptedStage(numbered, sessions=SessionOptions(most=2, idle_s=10.0))
    conversations, pool = stage.core.conversations, stage.core.scheduler.pool
    for number, name in enumerate("abcb", 1):
        run(stage, turn(number, number, session=name))
    assert [each.name for each in conversations] == ["c", "b"]
    assert conversations.counts.evicted == 1
    assert conversations.bytes == sum(each.size for each in conversations) > 0
    assert run(stage, turn(5, 5, session="a")).chunks[0].session_turns == 0, "c has been forgotten for it"
    conversations.forget("b")
    assert [each.name for each in conversations] == ["a"]
    stage.now = 10.0
    stage.step()
    assert (len(conversations), conversations.bytes, conversations.counts.expired) == (0, 0, 1)
    assert (pool.num_idle, pool.available) == (0, pool.capacity)


def test_a_caller_with_many_conversations_pushes_out_its_own() -> None:
    stage = ScriptedStage(numbered, sessions=SessionOptions(most=3, idle_s=10.0))
    for number, name in enumerate(("ann/1", "bob/1", "bob/2", "bob/3", "bob/4"), 1):
        run(stage, turn(number, number, session=name))
    assert [each.name for each in stage.core.conversations] == ["ann/1", "bob/3", "bob/4"]


def test_a_conversation_that_ends_while_a_turn_runs_is_forgotten(stage: ScriptedStage) -> None:
    run(stage, turn(1, 1))
    last = stage.submit(turn(2, 2, max_frames=9))
    stage.step()
    stage.core.conversations.forget("a")
    assert run(stage, turn(3, 3, session_end=1)).chunks[0].session_turns == 0
    while stage.core.streams:
        stage.step()
    assert last.finish == "length"
    assert (len(stage.core.conversations), stage.core.conversations.bytes) == (0, 0)
    assert not stage.core.scheduler.pool.num_idle


def test_a_conversation_gives_its_blocks_to_other_callers() -> None:
    stage = ScriptedStage(numbered, num_blocks=8)
    run(stage, turn(1, 1, max_frames=12))
    assert stage.core.scheduler.pool.num_idle
    other = stage.submit(utterance(seed=9, positions=20, max_frames=8))
    while stage.core.streams:
        stage.step()
    assert other.finish == "length"
    following = turn(2, 2)
    run(stage, following)
    assert following.order.frames[:-3].tolist() == prompt_of(stage, (1, 12))


def test_a_full_window_loses_a_third_at_once() -> None:
    turns = [np.full((20, 2), number) for number in range(5)]
    assert [rows[0, 0] for rows in newest(turns, free=100, window=120)] == [0, 1, 2, 3, 4]
    assert [rows[0, 0] for rows in newest(turns, free=99, window=120)] == [2, 3, 4]
    assert [rows[0, 0] for rows in newest(turns, free=45, window=120)] == [3, 4]
    assert newest(turns[:1], free=19, window=120) == []


def test_the_voice_never_goes() -> None:
    stage = ScriptedStage(numbered, max_positions=64)
    for number in range(1, 16):
        spoken = turn(number, number, positions=7)
        spoken.order.__dict__["voice"] = 4
        run(stage, spoken)
        assert len(spoken.order.frames) + spoken.order.max_frames <= 64
        assert spoken.order.frames[:4, -1].tolist() == [number] * 4
    assert stage.core.conversations.counts.trimmed


class StandIn:
    """Draws random frames; one in four ends speech."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(1)

    def frames(self, count: int) -> np.ndarray:
        return self.random.integers(1, 17, (count, CODEBOOKS), dtype=np.int32) * (self.random.random((count, 1)) > 0.25)


def test_thousands_of_conversations_leave_nothing_behind() -> None:
    """5,000 conversations of 1 to 20 turns, of which one in five is interrupted, 64 at once."""
    random, engine = np.random.default_rng(0), StandIn()
    limits = Limits(max_streams=80, max_waiting=64, step_positions=512)
    pool = BlockPool(num_blocks=700, block_size=8)
    core = Core(pool, limits, 128, deliver, options=FlowOptions(max_wait_s=1e9), sessions=SessionOptions(200, 50.0))
    text = np.full((4, CODEBOOKS + 1), MASKED, np.int32)
    text[:, -1] = 1

    def conversation(name: int) -> Iterator[None]:
        for number in range(random.integers(1, 21)):
            ends = number and random.random() < 0.02
            order = Order(text, 6, number, session=f"{name}", ticket=name * 32 + number + 1, session_end=int(ends))
            spoken, inbox = Utterance(order), Inbox(core)
            core.submit(spoken, inbox, now)
            leaves = random.integers(0, 4) if random.random() < 0.2 else None
            while not (inbox.finish or inbox.error):
                yield
                if leaves is not None and len(spoken.frames) >= leaves:
                    core.take(order.ticket, int(leaves), gone=True)
                    break
                core.take(order.ticket, len(spoken.frames))

    now, begun, talking, codes = 0.0, 0, list[Iterator[None]](), list[np.ndarray]()
    while begun < 5_000 or talking or core.streams:
        while len(talking) < 64 and begun < 5_000:
            talking.append(conversation(begun))
            begun += 1
        talking = [each for each in talking if next(each, talking) is None]
        step = core.plan(now)
        if step is not None:
            codes.append(engine.frames(int(step.samples.sum())))
        while codes and core.due(ready=True):
            core.collect(codes.pop(0), now)
        now += 0.01
        if begun % 500 == 0:
            core.scheduler.check()
    core.scheduler.check()
    counts, conversations = core.conversations.counts, core.conversations
    assert counts.turns > 40_000
    assert counts.trimmed
    assert len(conversations) <= 200
    assert core.conversations.bytes == sum(each.size for each in conversations)
    assert core.scheduler.free_slots == limits.max_streams
    assert pool.available == pool.capacity
    for each in list(conversations):
        conversations.forget(each.name)
    assert (conversations.bytes, pool.num_idle) == (0, 0)
