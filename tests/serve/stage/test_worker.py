"""A stage's own thread: what waits is bounded, a long line is no hang, and a failure is not the end of it."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from misotts.serve.stage.worker import Worker
from tests.support.waiting import wait_until


class Gate:
    """Work that waits until it is let go, one batch at a time."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self._open = threading.Semaphore(0)

    def process(self, batch: list[str]) -> None:
        self.batches.append(batch)
        assert self._open.acquire(timeout=5)
        if batch == ["bad"]:
            raise RuntimeError("bad")

    def let_go(self, batches: int = 1) -> None:
        self._open.release(batches)


def test_what_waits_is_bounded_also_behind_others_of_its_key() -> None:
    gate = Gate()
    worker = Worker(gate.process, key=lambda _: None, limit=3)
    worker.put("first")
    wait_until(lambda: gate.batches)
    for number in range(3):
        worker.put(f"{number}")
    with pytest.raises(queue.Full):
        worker.put("too many")
    gate.let_go()
    wait_until(lambda: len(gate.batches) == 2)
    assert worker.unfinished == 3, "two wait and one is worked on"
    worker.put("3")
    with pytest.raises(queue.Full):
        worker.put("too many")
    gate.let_go(4)
    wait_until(lambda: len(gate.batches) == 5)
    assert gate.batches == [["first"], ["0"], ["1"], ["2"], ["3"]]
    wait_until(lambda: worker.unfinished == 0)


def test_every_batch_is_a_sign_of_life() -> None:
    gate = Gate()
    worker = Worker(gate.process, key=lambda _: None, limit=3)
    for name in "ab":
        worker.put(name)
    wait_until(lambda: gate.batches == [["a"]])
    began = worker.last_sign
    time.sleep(0.02)
    assert worker.last_sign == began, "one that hangs must look so"
    gate.let_go()
    wait_until(lambda: gate.batches == [["a"], ["b"]])
    assert worker.last_sign > began + 0.01
    gate.let_go()


def test_it_outlives_a_failure() -> None:
    gate = Gate()
    worker = Worker(gate.process, key=lambda _: None, limit=3)
    gate.let_go(2)
    worker.put("bad")
    worker.put("good")
    wait_until(lambda: gate.batches == [["bad"], ["good"]])
