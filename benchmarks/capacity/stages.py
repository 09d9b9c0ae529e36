"""The stages under a virtual clock: their own code decides what they do, the cost table how long it takes.

The core of the generate stage (`misotts.generate.core`), the batches of a worker, the calls into which decode and
watermark cut them and what the watermark holds back are the server's own code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import simpy

from benchmarks.capacity.device import Device
from benchmarks.costs.table import CostTable
from misotts.config import NO_SLOT
from misotts.decode.decoder import MAX_FRAMES
from misotts.engines.interface import Limits, Step
from misotts.generate.blocks import BlockPool
from misotts.generate.core import Core
from misotts.generate.flow import FlowOptions, tick_s
from misotts.generate.stream import Receiver, deliver
from misotts.generate.utterance import Utterance
from misotts.serve.stage.worker import next_batch
from misotts.slots import call_rows, rounds
from misotts_client.errors import Unavailable

MAX_POSITIONS = 4096
"""More positions than any call needs."""

EARLY_FRAMES = 3
"""Frames as which the early marks of one are counted. In a loop by hand (27 Nov 2026) they take the host 0.03 to 0.05
ms and a frame 0.016 to 0.02, both less than in a server; the network computes 6 to 11 columns."""

Process = Generator[simpy.Event, object, None]


class Generate:
    """The generate stage: its own core, and an engine that takes the time of the cost table."""

    def __init__(
        self, environment: simpy.Environment, device: Device, costs: CostTable, limits: Limits, options: FlowOptions
    ) -> None:
        self._environment, self._device, self._costs = environment, device, costs
        pool = BlockPool(costs.kv_blocks, costs.block_size)
        self.core = Core(pool, limits, MAX_POSITIONS, deliver, costs.hold_back, options)
        self._launched: deque[tuple[simpy.Process, int]] = deque()
        """The steps in flight, and the number of frames that each samples."""
        self._wake = environment.event()
        environment.process(self._run())

    def submit(self, utterance: Utterance, receiver: Receiver) -> None:
        """Queue an utterance; `receiver` gets its chunks, or the refusal."""
        try:
            self.core.submit(utterance, receiver, self._environment.now)
        except Unavailable as error:
            receiver.refuse(error)
        else:
            self._notify()

    def acknowledge(self, stream: int, index: int) -> None:
        if self.core.acknowledge(stream, index):
            self._notify()

    def take(self, ticket: int, frames: int, gone: bool = False) -> None:
        if self.core.take(ticket, frames, gone):
            self._notify()

    def _notify(self) -> None:
        if not self._wake.triggered:
            self._wake.succeed()

    def _run(self) -> Process:
        """See `misotts.generate.loop.Generator.step`."""
        while True:
            step = self.core.plan(self._environment.now)
            if step is not None:
                done = self._launch(step)
                if not self._costs.overlaps:
                    yield done
            elif not self._launched:
                yield from self._sleep()
            while self._launched and self.core.due(self._launched[0][0].triggered):
                done, samples = self._launched.popleft()
                if not done.processed:
                    yield done
                self.core.collect(np.ones((samples, 1), np.int32), self._environment.now)

    def _sleep(self) -> Process:
        self._wake = self._environment.event()
        # Only `submit` wakes an empty stage: without a timer the simulation can come to its end.
        timer = [self._environment.timeout(tick_s(self._environment.now))] if self.core.streams else []
        yield self._environment.any_of([self._wake, *timer])

    def _launch(self, step: Step) -> simpy.Process:
        context = step.starts[: step.generating].sum() / max(step.generating, 1)
        samples = int(step.samples.sum())
        seconds = self._costs.step_ms(samples, float(context), len(step.rows)) / 1000
        before = self._launched[-1][0] if self._launched else None
        done = self._environment.process(self._execute(before, seconds))
        self._launched.append((done, samples))
        return done

    def _execute(self, before: simpy.Event | None, seconds: float) -> Process:
        if before is not None and not before.processed:
            yield before
        began = self._environment.now
        yield self._device.work(seconds)
        self.core.spend(self._environment.now - began)


@dataclass(frozen=True)
class Piece:
    """A chunk on its way through decode and watermark."""

    stream: int
    slot: int
    index: int
    frames: int
    finish: str
    forward: Callable[[Piece, int], None]
    """Called with the piece, and with the number of frames that came out for it, when the stage is done with it."""


class SimulatedThread:
    """Does one piece of work after the other."""

    def __init__(self, environment: simpy.Environment) -> None:
        self._environment, self._free_at, self._queued_s = environment, 0.0, 0.0

    @property
    def busy_s(self) -> float:
        """Seconds in which it has worked so far."""
        return self._queued_s - max(self._free_at - self._environment.now, 0.0)

    def wait(self, seconds: float) -> float:
        """Queue work of `seconds`; return the seconds from now until it begins."""
        begins = max(self._free_at, self._environment.now)
        self._free_at = begins + seconds
        self._queued_s += seconds
        return begins - self._environment.now


class ChunkWorker:
    """The base of decode and watermark: the waiting pieces are one batch, with one piece of each stream. A thread of
    its own sends what is finished."""

    def __init__(self, environment: simpy.Environment, device: Device, costs: CostTable, slots: int) -> None:
        self._environment, self._device = environment, device
        self.costs, self.slots = costs, slots
        self._waiting: deque[Piece] = deque()
        self._wake = environment.event()
        self.busy_s = 0.0
        self.sender = SimulatedThread(environment)
        environment.process(self._run())

    @property
    def send_ms(self) -> float:
        """Time in which a message occupies the sender."""
        return self.costs.send_ms

    def calls(self, pieces: list[Piece]) -> Iterator[tuple[float, list[Piece]]]:
        """Yield the seconds of each call of a batch, and the pieces that are finished with it; all have a slot."""
        raise NotImplementedError

    def result(self, piece: Piece) -> int:
        """Return the number of frames that come out for a piece."""
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
            self._send([piece for piece in batch if piece.slot == NO_SLOT])
            for seconds, done in self.calls([piece for piece in batch if piece.slot != NO_SLOT]):
                if seconds:
                    yield self._device.work(seconds)
                self._send(done)
            self.busy_s += self._environment.now - began

    def _send(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            frames = self.result(piece) if piece.slot != NO_SLOT else 0
            self._environment.process(self._forward(piece, frames, self.sender.wait(self.send_ms / 1000)))

    def _forward(self, piece: Piece, frames: int, wait_s: float) -> Process:
        yield self._environment.timeout(wait_s)
        piece.forward(piece, frames)


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
    """See `misotts.watermark.watermarker.Watermarker.mark`: it holds frames back until a stream's last piece, and makes
    early marks in a call of their own."""

    def __init__(self, environment: simpy.Environment, device: Device, costs: CostTable, slots: int) -> None:
        super().__init__(environment, device, costs, slots)
        self._arrived: dict[int, int] = {}
        """Frames of each stream so far."""

    @property
    def send_ms(self) -> float:
        return self.costs.send_ms if self.costs.send_out_ms is None else self.costs.send_out_ms

    def calls(self, pieces: list[Piece]) -> Iterator[tuple[float, list[Piece]]]:
        kept = self.costs.hold_back
        early = sum(self._early(self._arrived.get(piece.stream, 0), piece.frames) for piece in pieces)
        if early:  # a row for each
            yield self.costs.watermark.at(min(early, self.slots), EARLY_FRAMES) / 1000, []
        flush = kept.frames + 1
        lengths = [piece.frames + (flush if piece.finish else 0) for piece in pieces]
        for start, end, members, done in rounds(lengths):
            ms = self.costs.watermark.at(len(members), end - start) if members else 0.0
            yield ms / 1000, [pieces[number] for number in done]

    def result(self, piece: Piece) -> int:
        before = self._arrived.pop(piece.stream, 0)
        arrived, gone = before + piece.frames, self.costs.hold_back.gone(before)
        if piece.finish:
            return arrived - gone
        self._arrived[piece.stream] = arrived
        return self.costs.hold_back.gone(arrived) - gone

    def _early(self, before: int, frames: int) -> int:
        """Return how many of the next frames let one out before all are held back that must be."""
        kept = self.costs.hold_back
        upto = min(before + frames, kept.frames * kept.every - 1)
        return max(kept.gone(upto) - kept.gone(before), 0) if kept.every > 1 else 0
