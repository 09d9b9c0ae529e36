"""Stages that slow each other down on one device: each in a process of its own, alone and beside others.

The speed of a shared machine changes within seconds. So every round times all stages, alone and together, within
seconds of each other; only their ratios count, and of those the median.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

import torch

Work = Callable[[Path], Iterator[None]]
"""Builds a stage of a model folder; each item of the iterator is one piece of its work."""

SEGMENT_S = 1.0
START_S = 0.02
"""Time after which a command has reached every process."""

_work: Iterator[None]
"""In each process: its stage's work."""


def measure_speeds(works: Mapping[str, Work], folder: Path, threads: int, rounds: int) -> list[float]:
    """Return the speed of a stage beside none, one, two, ... others; 1 is alone."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        stages = {
            name: stack.enter_context(ProcessPoolExecutor(1, context, _load, (work, folder, threads)))
            for name, work in works.items()
        }

        def rates(names: Sequence[str]) -> dict[str, float]:
            begin = time.monotonic() + START_S
            found = {name: stages[name].submit(_rate, begin) for name in names}
            return {name: each.result() for name, each in found.items()}

        rates(list(works))  # all stages are loaded then
        relative: dict[int, list[float]] = {count: [] for count in range(2, len(works) + 1)}
        for _ in range(rounds):
            alone = {name: rates([name])[name] for name in works}
            for count, found in relative.items():
                for together in combinations(works, count):
                    found += [rate / alone[name] for name, rate in rates(together).items()]
    speeds = [1.0]
    for found in relative.values():
        speeds.append(round(min(statistics.median(found), speeds[-1]), 3))
    return speeds


def _load(work: Work, folder: Path, threads: int) -> None:
    global _work
    torch.set_num_threads(threads)
    _work = work(folder)
    next(_work)


def _rate(begin: float) -> float:
    """Return the pieces of work per second from `begin` on, a time of the monotonic clock."""
    time.sleep(max(begin - time.monotonic(), 0.0))
    count, now = 0, begin
    while now < begin + SEGMENT_S:
        next(_work)
        count, now = count + 1, time.monotonic()
    return count / (now - begin)
