"""The step loop: one frame for every scheduled utterance, over and over.

    retire    end what was cancelled, is past its deadline or was lost; free seats whose last chunk is acknowledged
    schedule  seat the waiting, pick each utterance's positions for this step
    forward   backbone over the packed positions, depth over those that reach their end
    collect   hand each frame to its utterance's delivery; end what is finished

The loop's thread never waits for the network or for another stage: a second thread hands chunks on.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from misotts.config import ModelConfig
from misotts.generate.blocks import BlockPool
from misotts.generate.delivery import MAX_UNACKNOWLEDGED, Chunk, Delivery
from misotts.generate.embedding import Embedding
from misotts.generate.engines import Backbone, Batch, Depth, Sampling
from misotts.generate.sampling import gumbel_noise
from misotts.generate.scheduler import Limits, Part, Scheduler
from misotts.generate.utterance import EOS, LENGTH, Utterance
from misotts_client.errors import Cancelled, DeadlineExceeded, Internal, MisoError, Unavailable

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.5
PROBE_WAIT_S = 0.02
"""How long the loop sleeps between looks at streams that wait for something."""


class Receiver(Protocol):
    """Where an utterance's chunks go. Called from one thread, in order."""

    def chunk(self, chunk: Chunk) -> None: ...

    def refuse(self, error: MisoError) -> None:
        """The utterance ended before its first chunk; nothing else will come."""
        ...


@dataclass
class Totals:
    """Counts since start."""

    steps: int = 0
    frames: int = 0
    busy_s: float = 0.0


@dataclass
class _Stream:
    """An utterance from `submit` until its last chunk is acknowledged."""

    utterance: Utterance
    receiver: Receiver
    delivery: Delivery


class Generator:
    """Owns the engines, the scheduler, every utterance's seat and blocks, and the two threads."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: Embedding,
        backbone: Backbone,
        depth: Depth,
        limits: Limits,
        first_chunk_frames: int = 1,
    ) -> None:
        """`first_chunk_frames`: frames of a stream's first chunk where the request names no size."""
        self._codebooks = config.audio_num_codebooks
        self._max_columns = -(-config.max_seq_len // backbone.block_size)
        self._embedding, self._backbone, self._depth = embedding, backbone, depth
        self._first_chunk_frames = first_chunk_frames
        self.scheduler = Scheduler(BlockPool(backbone.num_blocks, backbone.block_size), limits)
        self.totals = Totals()
        self._streams: dict[int, _Stream] = {}
        self._wake = threading.Condition()
        self._state = _SeatState(limits.max_streams, embedding)
        self._draining = self._closed = False
        self.failure: Exception | None = None
        self.last_pass = time.monotonic()
        """When the loop last began a pass: it grows old if the loop hangs or has failed."""
        streams = limits.max_streams + limits.max_waiting
        self._outbox: queue.Queue[tuple[Receiver, Chunk | MisoError] | None]
        self._outbox = queue.Queue(maxsize=streams * (MAX_UNACKNOWLEDGED + 2))
        self._threads = [
            threading.Thread(target=self._run, name="generate", daemon=True),
            threading.Thread(target=self._send, name="generate-send", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, utterance: Utterance, receiver: Receiver) -> None:
        """Queue an utterance; `receiver` gets its chunks.

        Raises:
            Unavailable: the server drains, has failed, or its waiting line is full.
        """
        with self._wake:
            if self._draining or self.failure:
                raise Unavailable("the server is shutting down", retry_after_s=None)
            self.scheduler.add(utterance)

            def send(chunk: Chunk) -> None:
                self._outbox.put_nowait((receiver, chunk))

            delivery = Delivery(utterance, send, self._codebooks, time.monotonic())
            self._streams[utterance.stream] = _Stream(utterance, receiver, delivery)
            self._wake.notify()

    def acknowledge(self, stream: int, index: int, cancelled: bool = False) -> None:
        """A later stage is done with chunk `index` of `stream`; `cancelled`: it saw that the caller has left."""
        with self._wake:
            known = self._streams.get(stream)
            if known:
                known.delivery.acknowledge(index, cancelled)
                self._wake.notify()

    def abandon(self, stream: int) -> None:
        """The caller of `stream` has left and will acknowledge nothing more."""
        with self._wake:
            known = self._streams.get(stream)
            if known:
                known.delivery.abandon()
                self._wake.notify()

    def drain(self) -> None:
        """Refuse new utterances from now on; running and waiting ones go on to their end."""
        with self._wake:
            self._draining = True

    @property
    def streams(self) -> int:
        """Utterances that hold something: waiting, running, or not acknowledged to the end."""
        return len(self._streams)

    def close(self) -> None:
        """End every utterance and stop the threads."""
        with self._wake:
            self._draining = self._closed = True
            self._wake.notify()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        try:
            while not self._closed:
                self.last_pass = time.monotonic()
                if not self.step():
                    self._sleep()
            self._end_all(Unavailable("the server is shutting down"))
        except Exception as failure:
            log.exception("the generate loop failed")
            self.failure = failure
            self._end_all(Internal("the generate stage failed"))
        finally:
            self._outbox.put(None)

    def _sleep(self) -> None:
        with self._wake:
            if not self._closed:
                self._wake.wait(PROBE_WAIT_S if self._streams else IDLE_WAIT_S)

    def _send(self) -> None:
        while (item := self._outbox.get()) is not None:
            receiver, news = item
            try:
                receiver.chunk(news) if isinstance(news, Chunk) else receiver.refuse(news)
            except Exception:  # a caller's trouble must not stop the others
                log.exception("a receiver failed")

    def step(self) -> bool:
        """Run one step; False when there was nothing to do. The loop's thread calls it, and tests without one."""
        with self._wake:
            self._retire(time.monotonic())
            paused = {s.utterance for s in self._streams.values() if s.delivery.paused}
            parts = self.scheduler.schedule(paused)
        if not parts:
            return False
        began = time.perf_counter()
        drawing = [row for row, part in enumerate(parts) if part.draws]
        hidden = self._backbone.forward(self._batch(parts))
        frames = self._draw(hidden, drawing, [parts[row].utterance for row in drawing])
        for part in parts:
            part.utterance.cached += part.length
        with self._wake:
            self._collect([parts[row].utterance for row in drawing], frames)
        self.totals.steps += 1
        self.totals.frames += len(drawing)
        self.totals.busy_s += time.perf_counter() - began
        return True

    def _batch(self, parts: list[Part]) -> Batch:
        """Pack the step's positions: last frames first (the scheduler puts them there), then pieces of prompts."""
        blocks = np.zeros((len(parts), self._max_columns), np.int32)
        decodes, inputs = [], []
        for row, part in enumerate(parts):
            utterance = part.utterance
            blocks[row, : len(utterance.blocks)] = utterance.blocks
            if utterance.prefilled:
                decodes.append(utterance.seat)
            else:
                self._state.seat(utterance)
                piece = utterance.prompt[utterance.cached : utterance.cached + part.length]
                inputs.append(self._embedding.prompt(torch.from_numpy(piece.astype(np.int64))))
        return Batch(
            inputs=torch.cat([self._state.next_input[decodes], *inputs]),
            lengths=np.array([part.length for part in parts], np.int32),
            starts=np.array([part.utterance.cached for part in parts], np.int32),
            blocks=blocks,
        )

    def _draw(self, hidden: torch.Tensor, rows: list[int], utterances: list[Utterance]) -> np.ndarray:
        """Draw a frame for each of `utterances` from its row of `hidden` → int32 [n, codebooks]."""
        if not rows:
            return np.zeros((0, self._codebooks), np.int32)
        seats = [u.seat for u in utterances]
        sampling = self._state.sampling(seats, [u.frames for u in utterances], self._codebooks)
        codes, self._state.next_input[seats] = self._depth.forward(hidden[rows], sampling)
        return codes.to("cpu", torch.int32).numpy()

    def _collect(self, utterances: Iterable[Utterance], frames: np.ndarray) -> None:
        now = time.monotonic()
        running = len(self.scheduler.running)
        for utterance, codes in zip(utterances, frames, strict=True):
            delivery = self._streams[utterance.stream].delivery
            if not codes.any():  # the frame of zeros is the end of speech; the decode stage knows what to make of it
                delivery.keep(codes)
                self._end(utterance, EOS, now)
                continue
            utterance.frames += 1
            if utterance.frames < utterance.max_frames:
                delivery.add(codes, self._first_chunk_frames, running, now)
            else:
                delivery.keep(codes)
                self._end(utterance, LENGTH, now)

    def _retire(self, now: float) -> None:
        for stream in list(self._streams.values()):
            utterance, delivery = stream.utterance, stream.delivery
            if utterance.finish:
                if delivery.settled or delivery.silent(now):
                    self._forget(stream)
            elif delivery.cancelled:
                self._fail(stream, Cancelled("the caller left"), now)
            elif utterance.deadline is not None and now >= utterance.deadline:
                self._fail(stream, DeadlineExceeded("TIMEOUT_MS has passed"), now)
            elif delivery.silent(now):
                self._fail(stream, Internal("a later stage stopped answering"), now)
            else:
                delivery.probe(now)

    def _fail(self, stream: _Stream, error: MisoError, now: float) -> None:
        """End an utterance with an error: an ordinary one before its first chunk, in FINISH after it."""
        if stream.delivery.started:
            self._end(stream.utterance, f"error: {error}", now)
            return
        self.scheduler.remove(stream.utterance)
        self._forget(stream)
        self._outbox.put_nowait((stream.receiver, error))

    def _end(self, utterance: Utterance, finish: str, now: float) -> None:
        """The one exit: blocks are free from here on; the seat, once the last chunk is acknowledged."""
        self.scheduler.remove(utterance)
        utterance.finish = finish
        self._streams[utterance.stream].delivery.end(now)

    def _forget(self, stream: _Stream) -> None:
        self.scheduler.release_seat(stream.utterance)
        del self._streams[stream.utterance.stream]

    def _end_all(self, error: MisoError) -> None:
        with self._wake:
            for stream in list(self._streams.values()):
                if not stream.utterance.finish:
                    self._fail(stream, error, time.monotonic())


class _SeatState:
    """What the step needs of every seated utterance, one row per seat."""

    def __init__(self, seats: int, embedding: Embedding) -> None:
        table = embedding.text_table
        self.next_input = table.new_zeros(seats, embedding.width)
        self._device = table.device
        self._seed = np.zeros(seats, np.int64)
        self._temperature = np.ones(seats, np.float32)
        self._top_k = np.ones(seats, np.int64)

    def seat(self, utterance: Utterance) -> None:
        seat = utterance.seat
        greedy = utterance.temperature == 0
        self._seed[seat] = utterance.seed
        self._temperature[seat] = 1.0 if greedy else utterance.temperature
        self._top_k[seat] = 1 if greedy else utterance.top_k

    def sampling(self, seats: list[int], frames: list[int], codebooks: int) -> Sampling:
        """The draw of frame number `frames` for each of `seats`."""

        def put(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(self._device)

        top_k = self._top_k[seats]
        noise = gumbel_noise(put(self._seed[seats]), put(np.array(frames)), codebooks, int(top_k.max()))
        return Sampling(put(self._temperature[seats]), put(top_k), noise)
