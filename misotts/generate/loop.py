"""The step loop: the thread and the engine around `Core`, which plans the steps.

While the engine works on a step, the host collects the one before; on a GPU it waits for nothing else. The loop's
thread never waits for the network or for another stage: a second thread puts chunks together and delivers them.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from misotts.config import MAX_UNACKNOWLEDGED, ModelConfig
from misotts.engines.interface import Engine, Limits, Step
from misotts.engines.transfer import own_stream
from misotts.generate.blocks import BlockPool
from misotts.generate.conversations import SESSIONS, SessionOptions
from misotts.generate.core import Core
from misotts.generate.flow import FlowOptions, tick_s
from misotts.generate.outbox import Outbox
from misotts.generate.stream import Chunk, Receiver
from misotts.generate.utterance import Utterance
from misotts.hold_back import HoldBack
from misotts_client.errors import EOS, Internal, MisoError, Unavailable

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.5

WITHOUT_SERVER = FlowOptions(max_wait_s=math.inf)
"""Where no caller waits, a slow machine refuses nothing."""


@dataclass(frozen=True)
class _Launched:
    """A launched step; its codes may still be on the device."""

    codes: torch.Tensor
    """int32 [samples, codebooks] on the host."""
    done: torch.cuda.Event | None

    @property
    def ready(self) -> bool:
        return self.done is None or self.done.query()

    def frames(self) -> npt.NDArray[np.int32]:
        """Wait for the codes."""
        if self.done is not None:
            self.done.synchronize()
        frames: npt.NDArray[np.int32] = self.codes.numpy()
        return frames


class Generator:
    """Owns the engine, the core and the loop's thread."""

    def __init__(
        self,
        config: ModelConfig,
        engine: Engine,
        limits: Limits,
        hold_back: HoldBack = HoldBack(),
        options: FlowOptions = WITHOUT_SERVER,
        sessions: SessionOptions = SESSIONS,
    ) -> None:
        """`hold_back`, `options`, `sessions`: see `Core`."""
        # A stream has at most its unacknowledged chunks under way, and the last one, which nothing holds back. Batch
        # work and listeners may fill the queue each, and as many turns of conversations may wait.
        self._outbox = Outbox((limits.max_streams + 3 * limits.max_waiting) * (MAX_UNACKNOWLEDGED + 2))
        pool = BlockPool(engine.num_blocks, engine.block_size)
        self.core = Core(pool, limits, config.max_seq_len, self._outbox.put, hold_back, options, sessions=sessions)
        self._engine = engine
        self._launched: deque[_Launched] = deque()
        self._wake = threading.Condition()
        """Guards the core; notified when there may be something to do."""
        self._closed = False
        self.failure: Exception | None = None
        """The error that ended the loop; None while it runs."""
        self.last_pass = time.monotonic()
        """Time at which the loop last began a pass; it grows old if the loop hangs or has failed."""
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)

    def start(self) -> None:
        """Start the threads. They are stopped by `close`, or when the process ends, before the engine is freed."""
        atexit.register(self.close)
        self._outbox.start()
        self._thread.start()

    def submit(self, utterance: Utterance, receiver: Receiver) -> None:
        """See `Core.submit`; it is called from any thread, as the next four are. An order without a prompt ends its
        conversation, and nothing is spoken."""
        if (name := utterance.order.session) and not len(utterance.order.frames):
            with self._wake:
                self.core.conversations.forget(name)
            receiver.chunk(Chunk.without_frames(utterance, EOS))
            return
        with self._wake:
            self.core.submit(utterance, receiver, time.monotonic())
            self._wake.notify()

    def acknowledge(self, stream: int, index: int, failed: bool = False) -> None:
        """See `Core.acknowledge`."""
        with self._wake:
            if self.core.acknowledge(stream, index, failed):
                self._wake.notify()

    def take(self, ticket: int, frames: int, gone: bool) -> None:
        """See `Core.take`."""
        with self._wake:
            if self.core.take(ticket, frames, gone):
                self._wake.notify()

    def figures(self) -> dict[str, Any]:
        """See `Core.figures`."""
        with self._wake:
            return self.core.figures()

    def abandon(self, stream: int) -> None:
        """See `Core.abandon`."""
        with self._wake:
            self.core.abandon(stream)
            self._wake.notify()

    def close(self) -> None:
        """End every utterance and stop the threads."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._outbox.close()
        atexit.unregister(self.close)

    def deliver(self) -> None:
        """Deliver waiting chunks in the caller's thread, for a generator that is not started."""
        self._outbox.deliver()

    def _run(self) -> None:
        try:
            with own_stream():
                while not self._closed:
                    self.last_pass = time.monotonic()
                    if not self.step():
                        self._sleep()
            self._end(Unavailable("the server is shutting down"))
        except Exception as failure:
            log.exception("the generate loop failed")
            self.failure = failure
            self._end(Internal("the generate stage failed"))

    def _end(self, error: MisoError) -> None:
        with self._wake:
            self.core.close(error, time.monotonic())

    def _sleep(self) -> None:
        with self._wake:
            if self._closed:
                return
            if not self.core.streams:
                self.core.scheduler.check()  # it delays no stream now
            self._wake.wait(tick_s(time.monotonic()) if self.core.streams else IDLE_WAIT_S)

    def step(self) -> bool:
        """Run one step; False if there was nothing to do. The loop's thread calls it, and a test or a benchmark that
        does not start the thread."""
        began = time.perf_counter()
        with self._wake:
            step = self.core.plan(time.monotonic())
        if step is not None:
            self._launched.append(self._launch(step))
        elif not self._launched:
            return False
        while self._launched and self.core.due(self._launched[0].ready):
            frames = self._launched.popleft().frames()
            with self._wake:
                self.core.collect(frames, time.monotonic())
        with self._wake:
            self.core.spend(time.perf_counter() - began)
        return True

    def _launch(self, step: Step) -> _Launched:
        """Give the engine a step; on a GPU, without waiting."""
        codes = self._engine.step(step)
        if codes.device.type == "cpu":
            return _Launched(codes.int(), None)
        done = torch.cuda.Event()
        codes = codes.int().to("cpu", non_blocking=True)
        done.record()
        return _Launched(codes, done)
