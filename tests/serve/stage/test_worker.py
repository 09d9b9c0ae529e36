"""A stage's worker thread: its queue is bounded, every batch is progress, and it goes on after failures."""

import queue
import threading
import time

import pytest

from misotts.serve.stage.worker import FairWorker, Worker
from tests.support.waiting import wait_until


class Gate:
    """Finishes a batch for every call of `finish`."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self._allowed = threading.Semaphore(0)

    def process(self, batch: list[str]) -> None:
        self.batches.append(batch)
        assert self._allowed.acquire(timeout=5)
        if batch == ["bad"]:
            raise RuntimeError("bad")

    def finish(self, batches: int = 1) -> None:
        self._allowed.release(batches)


def test_the_queue_is_bounded_also_for_items_of_one_key() -> None:
    gate = Gate()
    worker = Worker(gate.process, key=lambda _: None, limit=3)
    worker.put("first")
    wait_until(lambda: gate.batches)
    for number in range(3):
        worker.put(f"{number}")
    with pytest.raises(queue.Full):
        worker.put("too many")
    gate.finish()
    wait_until(lambda: len(gate.batches) == 2)
    assert worker.unfinished == 3, "two are queued and one is in the batch"
    worker.put("3")
    with pytest.raises(queue.Full):
        worker.put("too many")
    gate.finish(4)
    wait_until(lambda: len(gate.batches) == 5)
    assert gate.batches == [["first"], ["0"], ["1"], ["2"], ["3"]]
    wait_until(lambda: worker.unfinished == 0)


def test_every_batch_is_progress() -> None:
    gate = Gate()
    worker = Worker(gate.process, key=lambda _: None, limit=3)
    for name in "ab":
        worker.put(name)
    wait_until(lambda: gate.batches == [["a"]])
    began = worker.last_progress
    time.sleep(0.02)
    assert worker.last_progress == began, "a worker that hangs makes no progress"
    gate.finish()
    wait_until(lambda: gate.batches == [["a"], ["b"]])
    assert worker.last_progress > began + 0.01
    gate.finish()


def test_it_goes_on_after_a_failure() -> None:
    gate = Gate()
    worker = Worker(gate.process, key=lambda _: None, limit=3)
    gate.finish(2)
    worker.put("bad")
    worker.put("good")
    wait_until(lambda: gate.batches == [["bad"], ["good"]])


def test_callers_take_turns_and_the_largest_gives_way() -> None:
    gate, displaced = Gate(), list[str]()
    worker = FairWorker(gate.process, lambda item: int(item[0]), limit=4, displaced=displaced.append)
    worker.put("1a")
    wait_until(lambda: gate.batches)
    for item in ("1b", "1c", "1d", "1e"):
        worker.put(item)
    with pytest.raises(queue.Full):
        worker.put("1f")
    worker.put("2a")
    worker.put("3a")
    assert displaced == ["1e", "1d"]
    with pytest.raises(queue.Full):
        worker.put("2b")
    gate.finish(5)
    wait_until(lambda: worker.unfinished == 0)
    assert gate.batches == [["1a"], ["2a"], ["3a"], ["1b"], ["1c"]]
