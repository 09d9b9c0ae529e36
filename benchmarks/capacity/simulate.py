"""A load of `misotts bench load` on a server that exists only as a cost table: the same calls, the same figures.

A discrete-event simulation (simpy): calls arrive as the load generator would make them, the stages run their own code,
and every action takes the time that the cost table gives. The answers are those of `benchmarks.load`, so the same code
computes percentiles, playback and continuity of measured and of simulated loads.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import simpy

from benchmarks.capacity.device import Device
from benchmarks.capacity.stages import Decode, Generate, Piece, Process, SimulatedThread, Watermark
from benchmarks.costs.table import CostTable
from benchmarks.load.caller import Answer
from benchmarks.load.plan import Call, Load, calls
from benchmarks.load.playback import Arrival
from misotts.config import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE
from misotts.engines.interface import Limits
from misotts.generate.core import REFRESH_EVERY_S
from misotts.generate.flow import FlowOptions
from misotts.generate.stream import Chunk
from misotts.generate.utterance import Utterance
from misotts.order import Order
from misotts_client.errors import MisoError, Unavailable, error_of, finish_of
from misotts_gateway.admission import Admission

VOICE_POSITIONS = 166
"""Positions of a registered voice: a clip of 10 s (125 frames and its end) and 40 positions of text."""

WAITING = FlowOptions(max_wait_s=60.0)
"""A server that refuses only what its queue cannot hold, as the tests' and the benchmarks' servers do."""

Then = Callable[[simpy.Event], None]


@dataclass(frozen=True)
class Simulated:
    """The answers to a load, and what the server did."""

    answers: list[Answer]
    """In the order of the calls."""
    seconds: float
    """Virtual time from the start to the end of the last call."""
    busy: dict[str, float]
    """Seconds that each stage worked, including its waits for the device; `sending`: those of the thread that sends
    watermark's chunks to the gateway; `device`: seconds that the device worked. Those within `window`, where one was
    given."""
    mean_batch: float
    """Frames per step of generate."""


def simulate(
    load: Load,
    costs: CostTable,
    limits: Limits,
    planned: Iterable[Call] | None = None,
    options: FlowOptions = WAITING,
    window: tuple[float, float] | None = None,
) -> Simulated:
    """Simulate the calls of `load`, or those `planned` (in the order of their times), on a server of `limits` and
    `options` until all have ended. `window`: begin and end of the virtual time in which `busy` is counted; without it,
    all of it.

    Raises:
        ValueError: the load has slow readers, which are not simulated.
    """
    if load.slow_share:
        raise ValueError("slow_share: slow readers are not simulated")
    server, answers = Server(costs, limits, options), list[Answer]()
    environment, remaining = server.environment, iter(planned) if planned is not None else calls(load)

    def make(call: Call) -> Caller:
        caller = Caller(call, server)
        answers.append(caller.answer)
        caller.send()
        return caller

    def open_loop() -> Process:
        for call in remaining:
            yield environment.timeout(max((call.at_s or 0.0) - environment.now, 0.0))
            make(call)

    def closed_loop() -> Process:
        while environment.now < load.end_s:
            yield make(next(remaining)).ended

    noted: list[dict[str, float]] = []
    for at_s in window or ():
        server.later(at_s, lambda _: noted.append(server.busy()))
    for loop in [open_loop] if load.streams is None else [closed_loop] * load.streams:
        environment.process(loop())
    environment.run()
    before, after = noted or (dict.fromkeys(server.busy(), 0.0), server.busy())
    counts = server.generate.core.statistics
    return Simulated(
        answers=sorted(answers, key=lambda answer: answer.call.number),
        seconds=max((answer.ended_s for answer in answers), default=0.0),
        busy={stage: busy_s - before[stage] for stage, busy_s in after.items()},
        mean_batch=counts.frames / counts.steps if counts.steps else 0.0,
    )


class Server:
    """The stages, and the messages between them."""

    def __init__(self, costs: CostTable, limits: Limits, options: FlowOptions = WAITING) -> None:
        self.environment = simpy.Environment()
        self.costs = costs
        self.device = Device(self.environment, costs.speed)
        self.generate = Generate(self.environment, self.device, costs, limits, options)
        self.decode = Decode(self.environment, self._device_of("decode"), costs, limits.max_streams)
        self.watermark = Watermark(self.environment, self._device_of("watermark"), costs, limits.max_streams)
        self._gateway, self._published = Admission(lambda: self.environment.now), -REFRESH_EVERY_S
        self._prompt, self._outbox = SimulatedThread(self.environment), SimulatedThread(self.environment)

    def busy(self) -> dict[str, float]:
        """Return the seconds of `Simulated.busy` so far, in the order in which a chunk passes."""
        return {
            "prompt": self._prompt.busy_s,
            "generate": self.generate.core.statistics.busy_s,
            "decode": self.decode.busy_s,
            "watermark": self.watermark.busy_s,
            "sending": self.watermark.sender.busy_s,
            "device": self.device.busy_s,
        }

    def _device_of(self, stage: str) -> Device:
        return Device(self.environment, lambda _: 1.0) if stage in self.costs.on_host else self.device

    def hop(self, then: Then, network: bool = False) -> None:
        """Call `then` after a message through Triton, which with `network` also crosses the network."""
        ms = self.costs.hop_ms + (self.costs.network_ms if network else 0.0)
        self.later(ms / 1000, then)

    def later(self, seconds: float, then: Then) -> None:
        event = self.environment.timeout(seconds)
        assert event.callbacks is not None
        event.callbacks.append(then)

    def enter(self, lead_ms: int | None) -> int:
        """Let a request with this LEAD_MS into the gateway, which has figures of at most `REFRESH_EVERY_S` ago; return
        its number, for `leave`. The gateway takes no time here.

        Raises:
            Unavailable: the gateway refuses it.
        """
        if self.environment.now - self._published >= REFRESH_EVERY_S:
            self._published = self.environment.now
            self._gateway.hear(self.generate.core.figures())
        return self._gateway.enter(lead_ms)

    def leave(self, number: int) -> None:
        self._gateway.leave(number)

    def at_prompt(self, then: Then) -> None:
        """Call `then` when the prompt stage has worked on another request."""
        seconds = self.costs.prompt.ms / 1000
        self.later(self._prompt.wait(seconds) + seconds, then)

    def from_generate(self, then: Then) -> None:
        """A hop from generate, which sends its chunks one after the other."""
        self.later(self._outbox.wait(self.costs.send_ms / 1000), lambda _: self.hop(then))


class Caller:
    """One call: sends it, and records the arrival of its chunks."""

    def __init__(self, call: Call, server: Server) -> None:
        self._server = server
        self._environment = server.environment
        now = self._environment.now
        self.answer = Answer(call, due_s=now if call.at_s is None else call.at_s, sent_s=now)
        self.ended = self._environment.event()
        self._utterance = self._make_utterance(call)
        self._number = 0
        """The gateway's number of the call; 0 before it is let in."""
        self._frames = 0
        """Frames that it has heard."""

    def _make_utterance(self, call: Call) -> Utterance:
        request = call.request
        order = Order(
            frames=_prompt(call, self._server.costs),
            max_frames=(request.max_audio_ms or FRAME_MS) // FRAME_MS,
            seed=request.seed or 0,
            chunk_frames=request.chunk_frames or 0,
            lead_ms=request.lead_ms,
            ticket=call.number + 1,
            deadline=self._environment.now + request.timeout_ms / 1000 if request.timeout_ms else None,
        )
        return Utterance(order)

    def send(self) -> None:
        self._server.later(self._server.costs.network_ms / 1000, self._at_gateway)

    def _at_gateway(self, _: simpy.Event) -> None:
        try:
            self._number = self._server.enter(self.answer.call.request.lead_ms)
        except Unavailable as error:
            refused = finish_of(error)
            self._server.later(self._server.costs.network_ms / 1000, lambda _: self._end(refused))
        else:
            self._server.hop(self._at_prompt)

    def _at_prompt(self, _: simpy.Event) -> None:
        self._server.at_prompt(lambda _: self._server.hop(self._at_generate))

    def _at_generate(self, _: simpy.Event) -> None:
        self._server.generate.submit(self._utterance, self)

    def chunk(self, chunk: Chunk) -> None:
        """Send a chunk from generate to decode: see `misotts.generate.stream.Receiver`."""
        piece = Piece(chunk.stream, chunk.slot, chunk.index, len(chunk.frames), chunk.finish, self._decoded)
        self._server.from_generate(lambda _: self._server.decode.put(piece))

    def refuse(self, error: MisoError) -> None:
        """End before the first chunk: see `misotts.generate.stream.Receiver`."""
        self._server.hop(lambda _: self._end(finish_of(error)), network=True)

    def _decoded(self, piece: Piece, frames: int) -> None:
        marked = replace(piece, frames=frames, forward=self._marked)
        self._server.hop(lambda _: self._server.watermark.put(marked))

    def _marked(self, piece: Piece, frames: int) -> None:
        self._server.generate.acknowledge(piece.stream, piece.index)
        if frames or piece.finish:
            self._server.hop(lambda _: self._hear(frames, piece.finish), network=True)

    def _hear(self, frames: int, finish: str) -> None:
        answer = self.answer
        if answer.ended_s:
            return
        if frames:
            answer.arrivals.append(Arrival(self._environment.now, frames * FRAME_SAMPLES))
            self._frames += frames
            self._tell()
        if finish:
            self._end(finish)
        elif self._frames * FRAME_SAMPLES / SAMPLE_RATE >= answer.call.cancel_after_s:
            self._end("")
            self._server.hop(lambda _: self._tell(gone=True), network=True)

    def _tell(self, gone: bool = False) -> None:
        """Tell generate by the caller's ticket how much it has taken, as the gateway does."""
        self._server.generate.take(self._utterance.order.ticket, self._frames, gone)

    def _end(self, finish: str) -> None:
        answer = self.answer
        self._server.leave(self._number)
        if error := error_of(finish):
            answer.error, _, answer.words = str(error).partition(": ")
        else:
            answer.finish = finish
        answer.ended_s = self._environment.now
        self.ended.succeed()


def _prompt(call: Call, costs: CostTable) -> np.ndarray:
    """A prompt with different positions for what the KV pool must distinguish: voices and calls."""
    own = np.full((costs.prompt.positions(len(call.request.text)), 2), call.number + 1, np.int32)
    if call.request.voice is None:
        return own
    voice = 2**30 + zlib.crc32(call.request.voice.encode()) % 2**30  # no call has this number
    return np.concatenate([np.full((VOICE_POSITIONS, 2), voice, np.int32), own])
