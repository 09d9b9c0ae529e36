"""prompt: requests become orders. See `misotts.prompt.builder`.

There are two queues with a worker each. The first takes every request and answers those that need no encoding; the
second encodes. So a request without audio never waits for the encoding of another one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from misotts.mimi import encode, load_mimi
from misotts.order import Order
from misotts.prompt.builder import Checked, Prompter
from misotts.prompt.voices import Voices
from misotts.serve.stage.stage import Stage, log
from misotts.serve.stage.tensors import array, send
from misotts.serve.stage.worker import Item, Worker
from misotts_client.errors import Internal, MisoError, Unavailable
from misotts_client.request import SpeechRequest
from misotts_client.tensors import read_request

MAX_QUEUED = 256
MAX_ENCODING = 64
"""Each may hold minutes of audio and take seconds, even if its caller has left: Triton does not tell the first step of
an ensemble."""


class PromptStage(Stage):
    name = "prompt"

    def load(self) -> None:
        folder = self.settings.model
        self.link.loading("tokenizer, Mimi encoder")
        mimi = load_mimi(folder, self.config, self.device)
        self.prompter = Prompter(folder, self.config, partial(encode, mimi), Voices(self.settings.voices))
        self.start_workers()

    def start_workers(self) -> None:
        """Begin to accept requests, at the end of `load`."""
        self.counts: Counter[str] = Counter()
        self.counts_lock = threading.Lock()
        # One request per batch: each one is progress, so a long queue does not look like a worker that hangs.
        self.checker: Worker[tuple[SpeechRequest, float, Any]] = Worker(self.check, lambda _: None, MAX_QUEUED)
        self.encoder: Worker[tuple[Checked, Any]] = Worker(self.encode, lambda _: None, MAX_ENCODING)

    def take(self, request: Any, sender: Any) -> None:
        arrived = time.monotonic()
        speech = read_request(partial(array, request), self.config.max_seq_len)
        put(self.checker, (speech, arrived, sender), "prompts")

    def check(self, batch: list[tuple[SpeechRequest, float, Any]]) -> None:
        """Work of the first queue."""
        for request, arrived, sender in batch:
            with self.errors_to(sender):
                checked = self.prompter.check(request, arrived)
                if checked.encodes:
                    put(self.encoder, (checked, sender), "contexts and new voices")
                else:
                    self.answer(sender, *self.prompter.complete(checked))

    def encode(self, batch: list[tuple[Checked, Any]]) -> None:
        """Work of the second queue."""
        for checked, sender in batch:
            with self.errors_to(sender):
                self.answer(sender, *self.prompter.complete(checked, self.encoder.report_progress))

    @contextmanager
    def errors_to(self, sender: Any) -> Iterator[None]:
        """Answer with the error that the block raises."""
        try:
            yield
        except MisoError as error:
            self.refuse(sender, error)
        except Exception:
            log.exception("a prompt failed")
            self.check_device()
            self.refuse(sender, Internal("the prompt stage failed"))

    def refuse(self, sender: Any, error: MisoError) -> None:
        self.count(refused=1)
        super().refuse(sender, error)

    def answer(self, sender: Any, order: Order, dropped_segments: int) -> None:
        self.count(prompts=1, dropped_segments=dropped_segments)
        outputs = {"FRAMES": order.frames, "ORDER": order.parameters()}
        send(sender, outputs, final=True)

    def count(self, **more: int) -> None:
        with self.counts_lock:  # three threads count
            self.counts.update(more)

    def progress(self) -> float:
        return min(self.checker.last_progress, self.encoder.last_progress)  # stands still as soon as one of them hangs

    def metrics(self) -> dict[str, Any]:
        # The checker is read first: a request that moves between the reads is counted twice rather than missed.
        checking = self.checker.unfinished
        encoding = self.encoder.unfinished
        return {
            "busy_seconds_total": self.checker.busy_s + self.encoder.busy_s,
            "encoding_seconds_total": self.encoder.busy_s,
            **{f"{name}_total": self.counts[name] for name in ("prompts", "refused", "dropped_segments")},
            "waiting": checking + encoding,
            "encoding": encoding,
        }


def put(worker: Worker[Item], item: Item, items: str) -> None:
    """Queue an item.

    Raises:
        Unavailable: the queue is full.
    """
    try:
        worker.put(item)
    except queue.Full:
        raise Unavailable(f"too many {items} wait; try again in 1 s", retry_after_s=1.0) from None
