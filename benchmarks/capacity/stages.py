"""The stages under a virtual clock: what they do is decided by their own code, how long it takes by the cost table.

Real: the scheduler, its KV pool, the streams with their deliveries (the pace of their chunks, the bound on
unacknowledged chunks, deadlines, cancels, probes), what a worker takes as a batch, the cutting of batches into calls.
Written again here, because the original is tied to threads, tensors or Triton: the order of the generate loop's step
(`misotts.generate.loop`), and how many frames the watermark lets go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import simpy

from benchmarks.capacity.device import Device
from benchmarks.costs.table import CostTable
from misotts.config import MAX_UNACKNOWLEDGED, NO_SLOT
from misotts.decode.decoder import MAX_FRAMES
from misotts.engines.interface import Limits
from misotts.generate.blocks import BlockPool
from misotts.generate.loop import WATCH_WAIT_S
from misotts.generate.outbox import Outbox, Receiver
from misotts.generate.scheduler import Part, QueueFullError, Scheduler, TooLongError
from misotts.generate.statistics import Statistics
from misotts.generate.streams import Streams
from misotts.generate.utterance import Utterance
from misotts.serve.stage.worker import next_batch
from misotts.slots import call_rows, rounds
from misotts_client.errors import LENGTH, Unavailable

CODES = np.ones(1, np.int32)
"""Stands for any frame: nothing looks at the codes."""

Process = Generator[simpy.Event, object, None]


@dataclass
class _Step:
    """A step that the device works on, or has yet to begin."""

    utterances: list[Utterance]
    """Those that draw a frame."""
    done: simpy.Event


class Generate:
    """The generate stage. See `misotts.generate.loop` for the order of things within a step."""

    def __init__(self, environment: simpy.Environment, device: Device, costs: CostTable, limits: Limits) -> None:
        self._environment, self._device, self._costs = environment, device, costs
        self.scheduler = Scheduler(BlockPool(costs.kv_blocks, costs.block_size), limits)
        self.statistics = Statistics()
        self._outbox = Outbox((limits.max_streams + limits.max_waiting) * (MAX_UNACKNOWLEDGED + 2))
        self.streams = Streams(self.scheduler, self.statistics, self._outbox, codebooks=1)
        self._steps: deque[_Step] = deque()
        self._wake = environment.event()
        environment.process(self._run())

    def submit(self, utterance: Utterance, receiver: Receiver) -> None:
        """Queue an utterance; `receiver` gets its chunks."""
        self.statistics.submitted += 1
        try:
            self.scheduler.add(utterance)
        except (QueueFullError, TooLongError) as error:
            self.statistics.rejected += 1
            receiver.refuse(Unavailable(str(error)))
            return
        self.streams.open(utterance, receiver, self._environment.now)
        self._notify()

    def acknowledge(self, stream: int, index: int, cancelled: bool) -> None:
        self.streams.acknowledge(stream, index, cancelled)
        self._notify()

    def _notify(self) -> None:
        if not self._wake.triggered:
            self._wake.succeed()

    def _run(self) -> Process:
        while True:
            self.streams.retire(self._environment.now)
            self._outbox.hand_on()
            parts = self.scheduler.schedule(self.streams.paused())
            if parts:
                step = self._launch(parts)
                if not self._costs.overlaps:
                    yield step.done
                self.scheduler.advance(parts)
            elif not self._steps:
                yield from self._sleep()
            while self._steps and (not parts or len(self._steps) > 1 or self._steps[0].done.triggered):
                step = self._steps.popleft()
                if not step.done.processed:
                    yield step.done
                self._collect(step.utterances)
                self._outbox.hand_on()

    def _sleep(self) -> Process:
        self._wake = self._environment.event()
        # Nobody wakes an empty stage but `submit`: without a timer the simulation can come to its end.
        timer = [self._environment.timeout(WATCH_WAIT_S)] if len(self.streams) else []
        yield self._environment.any_of([self._wake, *timer])

    def _launch(self, parts: list[Part]) -> _Step:
        decodes = [part.utterance for part in parts if part.decodes]
        context = sum(utterance.cached for utterance in decodes) / max(len(decodes), 1)
        prefill = sum(part.length for part in parts if not part.decodes)
        draws = [part.utterance for part in parts if part.draws]
        seconds = self._costs.step_ms(len(draws), context, prefill) / 1000
        before = self._steps[-1].done if self._steps else None
        step = _Step(draws, self._environment.process(self._execute(before, seconds)))
        self._steps.append(step)
        self.statistics.steps += 1
        self.statistics.frames += len(draws)
        self.statistics.prefilled += prefill
        return step

    def _execute(self, before: simpy.Event | None, seconds: float) -> Process:
        if before is not None and not before.processed:
            yield before
        began = self._environment.now
        yield self._device.work(seconds)
        self.statistics.busy_s += self._environment.now - began

    def _collect(self, utterances: list[Utterance]) -> None:
        now, running = self._environment.now, len(self.scheduler.running)
        for utterance in reversed(utterances):  # the last to come first, as in the loop
            if utterance.finish:  # it ended while this frame was being drawn
                continue
            stream = self.streams.of(utterance)
            utterance.frames.append(CODES)
            if len(utterance.frames) == utterance.order.max_frames:
                stream.delivery.keep(CODES)
                self.streams.end(stream, LENGTH, now)
            else:
                stream.delivery.add(CODES, self._costs.hold_back_frames + 1, running, now)


@dataclass(frozen=True)
class Piece:
    """A chunk on its way through decode and watermark."""

    stream: int
    slot: int
    index: int
    frames: int
    finish: str
    forward: Callable[[Piece, int], None]
    """What to do with it once it has been through: the piece, and the frames that came out."""


class ChunkWorker:
    """The base of decode and watermark: what has gathered is worked on as one batch, one piece of a stream."""

    def __init__(self, environment: simpy.Environment, device: Device, costs: CostTable, slots: int) -> None:
        self._environment, self._device = environment, device
        self.costs, self.slots = costs, slots
        self._waiting: deque[Piece] = deque()
        self._wake = environment.event()
        self.busy_s = 0.0
        environment.process(self._run())

    def calls(self, pieces: list[Piece]) -> Iterator[tuple[float, list[Piece]]]:
        """The seconds of each call that a batch takes, and the pieces that are done with it; all have a slot."""
        raise NotImplementedError

    def result(self, piece: Piece) -> int:
        """Frames that come out for a piece."""
        raise NotImplementedError

    def put(self, piece: Piece) -> None:
        self._waiting.append(piece)
        if not self._wake.triggered:
            self._wake.succeed()

    def _run(self) -> Process:
        while True:
            if not self._waiting:
                self._wake = self._environment.event()
                yield self._wake
            batch, self._waiting = next_batch(self._waiting, lambda piece: piece.stream)
            began = self._environment.now
            yield from self._send([piece for piece in batch if piece.slot == NO_SLOT])
            for seconds, done in self.calls([piece for piece in batch if piece.slot != NO_SLOT]):
                if seconds:
                    yield self._device.work(seconds)
                yield from self._send(done)
            self.busy_s += self._environment.now - began

    def _send(self, pieces: list[Piece]) -> Process:
        for piece in pieces:
            piece.forward(piece, self.result(piece) if piece.slot != NO_SLOT else 0)
            if self.costs.send_ms:
                yield self._environment.timeout(self.costs.send_ms / 1000)


class Decode(ChunkWorker):
    """See `misotts.decode.decoder.Decoder.decode`."""

    def calls(self, pieces: list[Piece]) -> Iterator[tuple[float, list[Piece]]]:
        for start, end, members, done in rounds([piece.frames for piece in pieces]):
            total = 0.0
            for begin in range(start, end, MAX_FRAMES):
                rows, _ = call_rows([pieces[member].slot for member in members], self.slots)
                total += self.costs.decode.at(rows, min(MAX_FRAMES, end - begin))
            yield total / 1000, [pieces[number] for number in done]

    def result(self, piece: Piece) -> int:
        return piece.frames


class Watermark(ChunkWorker):
    """See `misotts.watermark.watermarker.Watermarker.mark`: it holds frames back until a stream's last piece."""

    def __init__(self, environment: simpy.Environment, device: Device, costs: CostTable, slots: int) -> None:
        super().__init__(environment, device, costs, slots)
        self._held: dict[int, int] = {}

    def calls(self, pieces: list[Piece]) -> Iterator[tuple[float, list[Piece]]]:
        flush = self.costs.hold_back_frames + 1
        lengths = [piece.frames + (flush if piece.finish else 0) for piece in pieces]
        for start, end, members, done in rounds(lengths):
            ms = self.costs.watermark.at(len(members), end - start) if members else 0.0
            yield ms / 1000, [pieces[number] for number in done]

    def result(self, piece: Piece) -> int:
        held = self._held.pop(piece.stream, 0) + piece.frames
        if piece.finish:
            return held
        out = max(held - self.costs.hold_back_frames, 0)
        self._held[piece.stream] = held - out
        return out
