"""prompt: requests become orders. See `misotts.prompt.builder`.

There are two queues with a worker each. The first takes every request and answers those that need no encoding; the
second encodes. So a request without audio never waits for the encoding of another one. In the second queue callers take
turns, and nothing is encoded for a caller that has left, of which the gateway sends a note.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from cachetools import LRUCache

from misotts.mimi import encode, load_mimi
from misotts.order import Order
from misotts.prompt.builder import Checked, Prompter
from misotts.prompt.kept_codes import KeptCodes, codec_name
from misotts.prompt.voices import Voices
from misotts.serve.stage.datagrams import DatagramReceiver
from misotts.serve.stage.stage import Stage, log
from misotts.serve.stage.tensors import array, send
from misotts.serve.stage.worker import FairWorker, Item, Worker
from misotts_client.errors import Cancelled, Internal, MisoError, Unavailable
from misotts_client.request import SpeechRequest
from misotts_client.tensors import read_request
from misotts_gateway.tickets import INPUT, KEPT_GONE, Note, share_of, socket_path, unpack

MAX_QUEUED = 256
MAX_ENCODING = 64
"""Each may hold minutes of audio and take seconds."""


class PromptStage(Stage):
    name = "prompt"

    def load(self) -> None:
        folder = self.settings.model
        self.link.loading("tokenizer, Mimi encoder")
        mimi = load_mimi(folder, self.config, self.device)
        voices, encoder = self.settings.voices, partial(encode, mimi)
        kept = KeptCodes(voices, codec_name(folder / "mimi.safetensors", str(self.device)), encoder)
        self.prompter = Prompter(
            folder, self.config, encoder, Voices(voices), self.settings.max_audio_ms, encode_voice=kept.encode
        )
        self.prompter.load_voices(lambda name: self.link.loading(f"voice {name}"))
        kept.forget_others()
        self.start_workers()
        self.tickets = DatagramReceiver(socket_path(self.settings.run, "prompt"), unpack, self.note, "tickets")

    def start_workers(self) -> None:
        """Begin to accept requests, at the end of `load`."""
        self.counts: Counter[str] = Counter()
        self.counts_lock = threading.Lock()
        # One request per batch: each one is progress, so a long queue does not look like a worker that hangs.
        self.gone: LRUCache[int, None] = LRUCache(KEPT_GONE)
        self.checker: Worker[tuple[SpeechRequest, float, int, Any]] = Worker(self.check, lambda _: None, MAX_QUEUED)
        self.encoder: FairWorker[tuple[Checked, int, Any]] = FairWorker(
            self.encode, lambda item: share_of(item[1]), MAX_ENCODING, self.displace
        )

    def take(self, request: Any, sender: Any) -> None:
        arrived = time.monotonic()
        speech = read_request(partial(array, request), self.config.max_seq_len)
        ticket = array(request, INPUT)
        put(self.checker, (speech, arrived, 0 if ticket is None else int(ticket.item()), sender), "prompts")

    def check(self, batch: list[tuple[SpeechRequest, float, int, Any]]) -> None:
        """Work of the first queue."""
        for request, arrived, ticket, sender in batch:
            with self.errors_to(sender):
                self.check_caller(ticket)
                checked = self.prompter.check(request, arrived)
                if checked.encodes:
                    put(self.encoder, (checked, ticket, sender), "contexts and new voices")
                else:
                    self.answer(sender, ticket, arrived, *self.prompter.complete(checked))

    def encode(self, batch: list[tuple[Checked, int, Any]]) -> None:
        """Work of the second queue."""
        for checked, ticket, sender in batch:
            with self.errors_to(sender):
                self.check_caller(ticket)
                parts = self.prompter.complete(
                    checked, self.encoder.report_progress, partial(self.check_caller, ticket)
                )
                self.answer(sender, ticket, checked.arrived, *parts)

    def note(self, note: Note) -> None:
        """Remember a caller that has left."""
        if note.gone:
            self.gone[note.ticket] = None

    def check_caller(self, ticket: int) -> None:
        """Check that the caller has not left.

        Raises:
            Cancelled: it has, so nothing is encoded for it.
        """
        if ticket in self.gone:
            raise Cancelled("the caller has left")

    def displace(self, item: tuple[Checked, int, Any]) -> None:
        """Refuse a request that has lost its place to a caller with fewer."""
        self.refuse(item[-1], too_many("contexts and new voices"))

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

    def answer(self, sender: Any, ticket: int, arrived: float, order: Order, dropped_segments: int) -> None:
        self.count(prompts=1, dropped_segments=dropped_segments)
        if self.spans:
            self.spans.send("prompt", arrived, time.monotonic(), ticket)
        outputs = {"FRAMES": order.frames, "ORDER": replace(order, ticket=ticket).parameters()}
        send(sender, outputs, final=True)

    def count(self, **more: int) -> None:
        with self.counts_lock:  # three threads count
            self.counts.update(more)

    def malformed(self) -> int:
        return super().malformed() + self.tickets.malformed

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
        raise too_many(items) from None


def too_many(items: str) -> Unavailable:
    return Unavailable(f"too many {items} wait; try again in 1 s", retry_after_s=1.0)
