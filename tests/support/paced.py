"""A core on an engine with a known step time, and the callers that listen to it."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from misotts.engines.interface import Limits
from misotts.generate.blocks import BlockPool
from misotts.generate.core import Core
from misotts.generate.flow import FlowOptions
from misotts.generate.stream import Chunk, deliver
from misotts.generate.utterance import Utterance
from misotts_client.errors import MisoError, Unavailable
from tests.support.scripted import CODEBOOKS, utterance

FRAME_S = 0.08


@dataclass
class Listener:
    """A caller whose speech ends by itself after `length` frames."""

    machine: "Machine"
    spoken: Utterance
    length: int
    asked: float
    expected_s: float = 0.0
    first: float | None = None
    finish: str = ""
    error: Unavailable | None = None
    arrivals: list[tuple[float, int]] = field(default_factory=list)

    def chunk(self, chunk: Chunk) -> None:
        self.machine.process(chunk)
        self.finish = chunk.finish
        if chunk.frames:
            self.arrivals.append((self.machine.now, len(chunk.frames)))

    def refuse(self, error: MisoError) -> None:
        assert isinstance(error, Unavailable)
        self.error = error

    @property
    def waited_s(self) -> float:
        """Time to the first frame."""
        assert self.first is not None
        return self.first - self.asked

    def silent_s(self) -> float:
        dry_at, silent = self.arrivals[0][0], 0.0
        for at, frames in self.arrivals:
            silent += max(at - dry_at, 0.0)
            dry_at = max(dry_at, at) + frames * FRAME_S
        return silent


class Machine:
    """A core on an engine that takes `fixed_s` + `each_s` for each frame of a step, and a time that varies like that of
    a machine with other work if there is `noise`. The later stages take `later_s` for each frame; they process together
    what has come."""

    def __init__(
        self,
        options: FlowOptions,
        slots: int,
        fixed_s: float,
        each_s: float,
        max_waiting: int = 64,
        later_s: float = 0.0,
    ) -> None:
        self.core = Core(BlockPool(4000, 16), Limits(slots, max_waiting, 512), 2048, deliver, options=options)
        self.fixed_s, self.each_s, self.later_s, self.now = fixed_s, each_s, later_s, 0.0
        self._later_at, self._come, self._in_work = 0.0, list[Chunk](), list[Chunk]()
        self.noise: Random | None = None
        self.listeners: list[Listener] = []
        self._by_stream: dict[int, Listener] = {}

    def ask(self, length: int, most: int, **fields: Any) -> Listener:
        spoken = utterance(1, max_frames=most, **fields)
        listener = Listener(self, spoken, length, self.now, self.core.wait_s())
        self._by_stream[spoken.stream] = listener
        self.listeners.append(listener)
        try:
            self.core.submit(spoken, listener, self.now)
        except Unavailable as error:
            listener.error = error
        return listener

    def process(self, chunk: Chunk) -> None:
        """Have the later stages process a chunk."""
        self._come.append(chunk)

    def step(self) -> None:
        if self._later_at <= self.now:
            for chunk in self._in_work:
                self.core.acknowledge(chunk.stream, chunk.index)
            self._in_work, self._come = self._come, []
            self._later_at = self.now + self.later_s * sum(len(chunk.frames) for chunk in self._in_work)
        step = self.core.plan(self.now)
        if step is None:
            self.now += 0.01
            return
        samples = int(step.samples.sum())
        seconds = self.fixed_s + self.each_s * samples
        if self.noise:
            seconds *= self.noise.lognormvariate(-0.08, 0.4)
            seconds += self.noise.uniform(0.05, 0.25) if self.noise.random() < 0.01 else 0.0
        self.now += seconds
        sampled = self.core._in_flight[0]
        frames = np.ones((samples, CODEBOOKS), np.int32)
        for row, spoken in zip(frames, sampled, strict=True):
            listener = self._by_stream[spoken.stream]
            listener.first = self.now if listener.first is None else listener.first
            row *= len(spoken.frames) < listener.length
        self.core.collect(frames, self.now)
        self.core.spend(seconds)

    def run_until(self, end: float) -> None:
        while self.now < end:
            self.step()


def overload(machine: Machine, per_s: float, seconds: float, seed: int) -> list[Listener]:
    """Ask for utterances of 1 to 5 s, with texts that would allow three times as much, at random times."""
    rng, due = Random(seed), 0.0
    while due < seconds:
        machine.run_until(due)
        length = rng.randrange(12, 63)
        machine.ask(length, 3 * length)
        due += rng.expovariate(per_s)
    machine.run_until(machine.now + 60)
    return machine.listeners
