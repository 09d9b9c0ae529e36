"""How stages slow each other down on one device: each in a process of its own, alone and beside others, in turns.

What else a machine does changes from one second to the next. So every round times all of them, alone and together,
within seconds of each other, only their ratios count, and of those the median.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

Work = Callable[[Path], Iterator[None]]
"""Builds a stage of a model folder; each round of it is one piece of work."""

SEGMENT_S = 1.0
START_S = 0.02
"""Until then a command has reached every process."""
WAIT_S = 120.0


def measure_speeds(works: Mapping[str, Work], folder: Path, threads: int, rounds: int) -> list[float]:
    """Speed of a stage beside none, one, two, ... others; 1 is alone."""
    with _Stages(works, folder, threads) as stages:
        relative: dict[int, list[float]] = {count: [] for count in range(2, len(works) + 1)}
        for _ in range(rounds):
            alone = {name: stages.rates([name])[name] for name in works}
            for count, found in relative.items():
                for together in combinations(works, count):
                    found += [rate / alone[name] for name, rate in stages.rates(together).items()]
    speeds = [1.0]
    for found in relative.values():
        speeds.append(round(min(statistics.median(found), speeds[-1]), 3))
    return speeds


class _Stages:
    """Processes that work when they are told to."""

    def __init__(self, works: Mapping[str, Work], folder: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ends: dict[str, Connection] = {}
        self._processes = []
        for name, work in works.items():
            ours, theirs = context.Pipe()
            self._ends[name] = ours
            self._processes.append(context.Process(target=_serve, args=(work, folder, threads, theirs), daemon=True))

    def __enter__(self) -> _Stages:
        for process in self._processes:
            process.start()
        for name in self._ends:
            self._receive(name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def rates(self, names: Sequence[str]) -> dict[str, float]:
        """Rounds of work per second of each, all at the same time."""
        begin = time.monotonic() + START_S
        for name in names:
            self._ends[name].send(begin)
        return {name: self._receive(name) for name in names}

    def _receive(self, name: str) -> Any:
        if not self._ends[name].poll(WAIT_S):
            raise RuntimeError(f"{name} did not answer in {WAIT_S:g} s")
        return self._ends[name].recv()


def _serve(work: Work, folder: Path, threads: int, commands: Connection) -> None:
    torch.set_num_threads(threads)
    rounds = work(folder)
    next(rounds)
    commands.send(0.0)
    while True:
        begin = commands.recv()
        time.sleep(max(begin - time.monotonic(), 0.0))
        count, now = 0, begin
        while now < begin + SEGMENT_S:
            next(rounds)
            count, now = count + 1, time.monotonic()
        commands.send(count / (now - begin))
