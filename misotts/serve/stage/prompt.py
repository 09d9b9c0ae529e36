"""prompt: a request → a checked prompt. See `misotts.prompt.builder`.

Two lanes, each a worker with a line of its own. The quick one takes every request and answers those that need no
encoding; the others go on to the encoding lane, so that nobody waits for another's clips who has none of his own.
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
from misotts.serve.stage.request import read_request
from misotts.serve.stage.stage import Stage, log
from misotts.serve.stage.tensors import array, send
from misotts.serve.stage.worker import Worker
from misotts_client.errors import Internal, InvalidArgument, MisoError, Unavailable
from misotts_client.request import SpeechRequest

MAX_WAITING = 256
MAX_ENCODING = 64
"""Each may hold minutes of audio and take seconds, also where its caller has left: Triton does not tell the first step
of an ensemble."""


class PromptStage(Stage):
    name = "prompt"

    def load(self) -> None:
        folder = self.settings.model
        self.link.loading("tokenizer, Mimi encoder")
        mimi = load_mimi(folder, self.config, self.device)
        self.prompter = Prompter(folder, self.config, partial(encode, mimi), Voices(self.settings.voices))
        self.start_lanes()

    def start_lanes(self) -> None:
        """To be called at the end of `load`."""
        self.counts: Counter[str] = Counter()
        self.counting = threading.Lock()
        # One request a pass: a long line is no sign that a worker hangs.
        self.quick = Worker(self.check, key=lambda _: None, limit=MAX_WAITING)
        self.encoding = Worker(self.encode, key=lambda _: None, limit=MAX_ENCODING)

    def check_secret(self, request: Any) -> None:
        if array(request, "TEXT") is None:
            raise InvalidArgument("TEXT", "is required, it was left out")
        if array(request, self.settings.ensemble_input) is None:  # the ensemble fills it from TEXT
            self.refuse_outsider()

    def take(self, request: Any, sender: Any) -> None:
        arrived = time.monotonic()
        if self.link.draining.is_set():
            raise Unavailable("the server is shutting down")
        self.put(self.quick, (read_request(request, self.config), arrived, sender))

    def check(self, batch: list[tuple[SpeechRequest, float, Any]]) -> None:
        """The quick lane's work."""
        for request, arrived, sender in batch:
            with self.errors_to(sender):
                checked = self.prompter.check(request, arrived)
                if checked.encodes:
                    self.put(self.encoding, (checked, sender))
                else:
                    self.answer(*self.prompter.complete(checked), sender)

    def encode(self, batch: list[tuple[Checked, Any]]) -> None:
        """The encoding lane's work."""
        for checked, sender in batch:
            with self.errors_to(sender):
                self.answer(*self.prompter.complete(checked, self.encoding.sign_of_life), sender)

    def put(self, lane: Worker[Any], item: Any) -> None:
        try:
            lane.put(item)
        except queue.Full:
            what = "contexts and new voices" if lane is self.encoding else "prompts"
            raise Unavailable(f"too many {what} wait; try again in 1 s", retry_after_s=1.0) from None

    @contextmanager
    def errors_to(self, sender: Any) -> Iterator[None]:
        """Answer with what goes wrong."""
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

    def answer(self, order: Order, dropped_segments: int, sender: Any) -> None:
        self.count(prompts=1, dropped_segments=dropped_segments)
        outputs = {"SECRET": self.settings.secret, "FRAMES": order.frames, "ORDER": order.parameters()}
        send(sender, outputs, final=True)

    def count(self, **more: int) -> None:
        with self.counting:  # both lanes do
            self.counts.update(more)

    def idle_s(self) -> float:
        return time.monotonic() - min(self.quick.last_sign, self.encoding.last_sign)

    def report(self) -> dict[str, float]:
        return {
            "busy_seconds_total": self.quick.busy_s + self.encoding.busy_s,
            "encoding_seconds_total": self.encoding.busy_s,
            **{f"{name}_total": self.counts[name] for name in ("prompts", "refused", "dropped_segments")},
        }

    def state(self) -> dict[str, float]:
        quick = self.quick.unfinished  # read first: whoever changes lanes in between is counted twice, not never
        encoding = self.encoding.unfinished
        return {"waiting": quick + encoding, "encoding": encoding}
