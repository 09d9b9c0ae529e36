"""The step loop: one frame for every scheduled utterance, over and over.

    retire    end what was cancelled, is past its deadline or was lost; free slots whose last chunk is acknowledged
    schedule  slot the waiting, pick each utterance's positions for this step
    launch    backbone over the packed positions, depth over those that reach their end; on a GPU, without waiting
    collect   read back the step before, hand each frame to its utterance's delivery, end what is finished

While the engine works on a step, the host collects the one before: an utterance that turns out to have ended has then
drawn one frame too many, which nobody reads. The loop's thread never waits for the network or for another stage: a
second thread puts chunks together and hands them on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from misotts.config import MAX_UNACKNOWLEDGED, ModelConfig
from misotts.engines.interface import Engine, Limits
from misotts.generate.blocks import BlockPool
from misotts.generate.outbox import Outbox, Receiver
from misotts.generate.scheduler import Part, QueueFullError, Scheduler, TooLongError
from misotts.generate.slot_table import SlotTable
from misotts.generate.statistics import Statistics
from misotts.generate.streams import Streams
from misotts.generate.utterance import Utterance
from misotts_client.errors import EOS, LENGTH, Internal, MisoError, Unavailable

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.5
WATCH_WAIT_S = 0.02
"""How long the loop sleeps between looks at streams that wait for something."""


@dataclass
class _Launched:
    """A step whose codes may still be on the device."""

    utterances: list[Utterance]
    codes: torch.Tensor
    """int32 [n, codebooks] on the host."""
    done: torch.cuda.Event | None

    @property
    def ready(self) -> bool:
        return self.done is None or self.done.query()

    def frames(self) -> np.ndarray:
        if self.done is not None:
            self.done.synchronize()
        return self.codes.numpy()


class Generator:
    """Owns the engine, the scheduler, every utterance's slot and blocks, and the loop's thread."""

    def __init__(
        self,
        config: ModelConfig,
        engine: Engine,
        limits: Limits,
        first_chunk_frames: int = 1,
    ) -> None:
        """`first_chunk_frames`: frames of a stream's first chunk where the request names no size."""
        self._codebooks = config.audio_num_codebooks
        self._engine = engine
        self._first_chunk_frames = first_chunk_frames
        self.scheduler = Scheduler(BlockPool(engine.num_blocks, engine.block_size), limits)
        self.statistics = Statistics()
        # A stream has at most its unacknowledged chunks under way, and the last one, which nothing holds back.
        self._outbox = Outbox((limits.max_streams + limits.max_waiting) * (MAX_UNACKNOWLEDGED + 2))
        self._streams = Streams(self.scheduler, self.statistics, self._outbox, self._codebooks)
        columns = -(-config.max_seq_len // engine.block_size)
        self._slots = SlotTable(limits.max_streams, columns, self._codebooks)
        self._launched: deque[_Launched] = deque()
        self._wake = threading.Condition()
        """Guards the scheduler and the streams; notified when there may be something to do."""
        self._closed = False
        self.failure: Exception | None = None
        """What has ended the loop; None while it runs."""
        self.last_pass = time.monotonic()
        """When the loop last began a pass: it grows old if the loop hangs or has failed."""
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)

    def start(self) -> None:
        self._outbox.start()
        self._thread.start()

    def submit(self, utterance: Utterance, receiver: Receiver) -> None:
        """Queue an utterance; `receiver` gets its chunks.

        Raises:
            Unavailable: the server stops, its waiting line is full, or its KV pool too small.
        """
        with self._wake:
            self.statistics.submitted += 1
            try:
                self._admit(utterance)
            except Unavailable:
                self.statistics.rejected += 1
                raise
            self._streams.open(utterance, receiver, time.monotonic())
            self._wake.notify()

    def _admit(self, utterance: Utterance) -> None:
        if self.failure:
            raise Unavailable("the generate stage has failed")
        if self._closed:
            raise Unavailable("the server is shutting down")
        try:
            self.scheduler.add(utterance)
        except QueueFullError as error:
            wait = self._streams.retry_after_s()
            raise Unavailable(f"{error}, all places are taken; try again in {wait:.1f} s", retry_after_s=wait) from None
        except TooLongError as error:
            raise Unavailable(f"{error}; ask for a smaller MAX_AUDIO_MS or give the server more KV memory") from None

    def acknowledge(self, stream: int, index: int, cancelled: bool = False, failed: bool = False) -> None:
        """A later stage is done with chunk `index` of `stream`; `cancelled`: it saw that the caller has left; `failed`:
        it, or one before it, has ended the stream with an error."""
        with self._wake:
            self._streams.acknowledge(stream, index, cancelled, failed)
            self._wake.notify()

    def abandon(self, stream: int) -> None:
        """The caller of `stream` has left and will acknowledge nothing more."""
        with self._wake:
            self._streams.abandon(stream)
            self._wake.notify()

    @property
    def streams(self) -> int:
        """Utterances that hold something: waiting, running, or not acknowledged to the end."""
        return len(self._streams)

    def close(self) -> None:
        """End every utterance and stop the threads."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._outbox.close()

    def hand_on(self) -> None:
        """Hand on what waits for the receivers, in the caller's thread: for a generator that is not started."""
        self._outbox.hand_on()

    def _run(self) -> None:
        try:
            while not self._closed:
                self.last_pass = time.monotonic()
                if not self.step():
                    self._sleep()
            last_words: MisoError = Unavailable("the server is shutting down")
        except Exception as failure:
            log.exception("the generate loop failed")
            self.failure = failure
            last_words = Internal("the generate stage failed")
        with self._wake:
            self._streams.fail_all(last_words, time.monotonic())

    def _sleep(self) -> None:
        with self._wake:
            if self._closed:
                return
            if not self._streams:
                self.scheduler.check()  # costs nobody anything now
            self._wake.wait(WATCH_WAIT_S if self._streams else IDLE_WAIT_S)

    def step(self) -> bool:
        """Run one step; False when there was nothing to do. The loop's thread calls it, and tests without one."""
        began = time.perf_counter()
        with self._wake:
            self._streams.retire(time.monotonic())
            parts = self.scheduler.schedule(self._streams.paused())
        if parts:
            self._launched.append(self._launch(parts))
            with self._wake:
                self.scheduler.advance(parts)
        elif not self._launched:
            return False
        while self._launched and (not parts or len(self._launched) > 1 or self._launched[0].ready):
            launched = self._launched.popleft()
            frames = launched.frames()
            with self._wake:
                self._collect(launched.utterances, frames)
        self._count(parts, time.perf_counter() - began)
        return True

    def _launch(self, parts: list[Part]) -> _Launched:
        """Give the engine its work for one step."""
        utterances = [part.utterance for part in parts if part.draws]
        codes = self._engine.step(self._slots.step(parts))
        if codes.device.type == "cpu":
            return _Launched(utterances, codes.int(), None)
        done = torch.cuda.Event()
        codes = codes.int().to("cpu", non_blocking=True)
        done.record()
        return _Launched(utterances, codes, done)

    def _collect(self, utterances: Iterable[Utterance], frames: np.ndarray) -> None:
        now = time.monotonic()
        running = len(self.scheduler.running)
        speaks = frames.any(axis=1).tolist()
        # The last to come first: the first sound of one who has heard nothing must not queue behind the others' next.
        for utterance, codes, is_speech in reversed(list(zip(utterances, frames, speaks, strict=True))):
            if utterance.finish:  # it ended while this frame was being drawn
                continue
            stream = self._streams.of(utterance)
            if not utterance.frames:
                self.statistics.observations["first_frame_seconds"].append(now - stream.submitted)
            utterance.frames.append(codes)
            if not is_speech:  # the frame of zeros is the end of speech; the decode stage knows what to make of it
                stream.delivery.keep(codes)
                self._streams.end(stream, EOS, now)
            elif len(utterance.frames) == utterance.order.max_frames:
                stream.delivery.keep(codes)
                self._streams.end(stream, LENGTH, now)
            else:
                stream.delivery.add(codes, self._first_chunk_frames, running, now)

    def _count(self, parts: list[Part], seconds: float) -> None:
        statistics = self.statistics
        statistics.steps += 1
        statistics.frames += sum(part.draws for part in parts)
        statistics.prefilled += sum(part.length for part in parts if not part.decodes)
        statistics.busy_s += seconds
        statistics.observations["step_seconds"].append(seconds)
