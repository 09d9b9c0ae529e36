"""The base of `decode` and `watermark` without Triton: order, late chunks and a failing batch."""

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from misotts.config import NO_SLOT
from misotts.serve.stage.chunk_stage import Answer, Audio, ChunkStage
from misotts.serve.stage.header import Header
from misotts.serve.stage.worker import IDLE_S
from misotts.slots import Piece
from misotts_client.errors import Unavailable
from tests.support.waiting import wait_until

FAILED = "error: INTERNAL: the decode stage failed"


@pytest.fixture
def stage() -> Any:
    """A stage that doubles numbers behind a gate, so that chunks gather, and fails on 13 and 14."""

    class Doubler(ChunkStage):
        name, input = "decode", "CODES"

        def __init__(self) -> None:
            self.settings, self.device = cast(Any, SimpleNamespace(max_streams=4)), "cpu"
            self.answers: list[tuple[int, int, list[float], str]] = []
            self.batches: list[list[int]] = []
            self.firsts: list[tuple[int, bool]] = []
            self.entered, self.gate, self.sending = threading.Event(), threading.Event(), threading.Event()
            self.sending.set()
            self.start_worker(self.double)

        def double(self, pieces: Sequence[Piece[Any]]) -> Iterator[tuple[int, Audio]]:
            self.entered.set()
            self.gate.wait(5)
            self.batches.append([piece.slot for piece in pieces])
            self.firsts += [(piece.slot, piece.first) for piece in pieces]
            if any(13 in piece.data for piece in pieces):
                raise RuntimeError("thirteen")
            for number in sorted(range(len(pieces)), key=lambda number: len(pieces[number].data)):
                if 14 in pieces[number].data:
                    raise RuntimeError("fourteen")
                yield number, pieces[number].data * np.float32(2)

        def send_answer(self, answer: Answer) -> None:
            self.sending.wait(5)
            header = answer.chunk.header
            self.answers.append((header.stream, header.index, answer.audio.tolist(), answer.finish))

    return Doubler()


def send(
    stage: Any, stream: int, slot: int, index: int, *data: float, finish: str = "", admission: int | None = None
) -> None:
    """Send a chunk; `admission` is the stream's number, unless it is given."""
    header = Header(stream, slot, index, 0, stream if admission is None else admission, 0, finish)
    values = {"HEADER": header.pack(), "CODES": np.array(data, np.float32)}
    request = {name: SimpleNamespace(as_numpy=lambda value=value: value) for name, value in values.items()}
    stage.take(request, sender=None)


def wait_for(stage: Any, answers: int) -> None:
    stage.gate.set()
    wait_until(lambda: len(stage.answers) >= answers)


def test_a_streams_chunks_stay_in_order_and_streams_share_batches(stage: Any) -> None:
    send(stage, 1, 0, 0, 1)
    assert stage.entered.wait(5), "the worker waits with this chunk at the gate"
    for index in (1, 2):
        for stream, slot in ((1, 0), (2, 1), (3, 2)):
            send(stage, stream, slot, index, stream * 10 + index)
    wait_for(stage, 7)
    assert stage.batches == [[0], [0, 1, 2], [0, 1, 2]]
    assert [(s, i) for s, i, _, _ in stage.answers if s == 1] == [(1, 0), (1, 1), (1, 2)]
    assert stage.firsts[:4] == [(0, True), (0, False), (1, True), (2, True)]


def test_a_failure_ends_the_streams_of_its_batch_and_no_others(stage: Any) -> None:
    stage.gate.set()
    send(stage, 1, 0, 0, 13)
    wait_for(stage, 1)
    send(stage, 2, 1, 0, 4)
    wait_for(stage, 2)
    assert stage.answers == [(1, 0, [], FAILED), (2, 0, [8.0], "")]


def test_what_was_done_before_a_failure_is_sent(stage: Any) -> None:
    send(stage, 1, 0, 0, 1)
    assert stage.entered.wait(5), "the worker waits with this chunk at the gate"
    send(stage, 2, 1, 0, 14, 14)
    send(stage, 3, 2, 0, 4)
    wait_for(stage, 3)
    assert stage.answers[1:] == [(3, 0, [8.0], ""), (2, 0, [], FAILED)]


def test_chunks_without_a_slot_pass_unchanged(stage: Any) -> None:
    send(stage, 9, NO_SLOT, 0)
    wait_for(stage, 1)
    assert stage.answers == [(9, 0, [], "")]
    assert stage.batches == []


def test_a_late_chunk_does_not_disturb_the_slots_new_stream(stage: Any) -> None:
    stage.gate.set()
    send(stage, 5, 0, 0, 1)
    wait_for(stage, 1)
    send(stage, 4, 0, 7, 99, finish="length")
    send(stage, 5, 0, 1, 2)
    wait_for(stage, 3)
    assert (4, 7, [], "length") in stage.answers
    assert (5, 1, [4.0], "") in stage.answers
    assert stage.firsts == [(0, True), (0, False)]


def test_a_stream_that_waited_longer_than_its_slots_last_one_is_heard(stage: Any) -> None:
    """Batch work is admitted after listeners that came later."""
    stage.gate.set()
    send(stage, 5, 0, 0, 1, finish="eos", admission=1)
    wait_for(stage, 1)
    send(stage, 4, 0, 0, 3, finish="length", admission=2)
    wait_for(stage, 2)
    assert stage.answers[1] == (4, 0, [6.0], "length")
    assert stage.firsts == [(0, True), (0, True)]


def test_the_next_batch_does_not_wait_until_the_answers_are_sent(stage: Any) -> None:
    stage.sending.clear()
    stage.gate.set()
    for index in range(3):
        send(stage, 1, 0, index, index)
        wait_until(lambda: len(stage.batches) > index)  # noqa: B023
    assert stage.answers == []
    stage.sending.set()
    wait_for(stage, 3)
    assert [index for _, index, _, _ in stage.answers] == [0, 1, 2]


def test_a_thread_that_sends_no_more_is_seen(stage: Any) -> None:
    stage.gate.set()
    seen = stage.progress()
    wait_until(lambda: stage.progress() > seen)
    stage.sending.clear()
    send(stage, 1, 0, 0, 1)
    wait_until(lambda: len(stage.batches) == 1)
    time.sleep(2 * IDLE_S)
    seen = stage.progress()
    time.sleep(3 * IDLE_S)
    assert stage.progress() == seen, "the worker is alive, which must not hide the sender"
    stage.sending.set()
    wait_until(lambda: stage.progress() > seen)


def test_a_stage_that_cannot_send_refuses_and_loses_nothing(stage: Any) -> None:
    stage.sending.clear()
    stage.gate.set()
    taken: list[int] = []

    def send_until_refused() -> None:
        for stream in range(100_000):
            send(stage, stream, NO_SLOT, 0)
            taken.append(stream)

    with pytest.raises(Unavailable, match="the queue of the decode stage is full"):
        send_until_refused()
    stage.sending.set()
    wait_for(stage, len(taken))
    assert [stream for stream, _, _, _ in stage.answers] == taken
    send(stage, 1, 0, 0, 1)
    wait_for(stage, len(taken) + 1)
