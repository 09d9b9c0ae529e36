"""Drives a load against a server, from one event loop that watches itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.load.caller import Answer, Clock, make
from benchmarks.load.plan import Call, Load, calls
from misotts_client import AsyncClient

WARM_UP = 3
"""Utterances before the clock starts: the first ones pay for lazy initialisation."""
LAG_STEP_S = 0.005
PROGRESS_S = 0.5


@dataclass
class Run:
    """What a load met."""

    answers: list[Answer] = field(default_factory=list)
    """As they ended; at the end of the run in the order of the calls."""
    under_way: int = 0
    seconds: float = 0.0
    """From the start to the end of the last call."""
    lags_s: list[float] = field(default_factory=list)
    """How late the event loop woke a task, every 5 ms: what the generator itself may have added to any time."""
    cpu_s: float = 0.0
    """CPU time of the generator's process."""


async def drive(load: Load, url: str, begin: Callable[[], None], show: Callable[[Run], None]) -> Run:
    """Warm the server up, make the calls, and hear all of them to their end.

    Args:
        load: what to send.
        url: host and gRPC port of the server.
        begin: called between the warm-up and the first call.
        show: called with the run so far, twice a second.

    Raises:
        MisoError: the server does not answer even one call at a time.
    """
    async with AsyncClient(url) as client:
        for _ in range(WARM_UP):
            await client.speak("Warming up.", max_audio_ms=800)
        begin()
        run = Run()
        cpu = time.process_time()
        start = time.perf_counter()
        watchers = [asyncio.create_task(_measure_lag(run)), asyncio.create_task(_show(run, show))]
        await _Loop(load, client, run, lambda: time.perf_counter() - start).run()
        run.seconds = time.perf_counter() - start
        run.cpu_s = time.process_time() - cpu
        for watcher in watchers:
            watcher.cancel()
    run.answers.sort(key=lambda answer: answer.call.number)
    return run


class _Loop:
    """The calls of a load, in an open or a closed loop."""

    def __init__(self, load: Load, client: AsyncClient, run: Run, clock: Clock) -> None:
        self._load, self._client, self._run, self._clock = load, client, run, clock
        self._calls = calls(load)

    async def run(self) -> None:
        if self._load.streams is None:
            await self._open()
        else:
            await asyncio.gather(*[self._caller() for _ in range(self._load.streams)])

    async def _open(self) -> None:
        made = []
        for call in self._calls:
            await asyncio.sleep((call.at_s or 0.0) - self._clock())
            made.append(asyncio.create_task(self._make(call)))
        await asyncio.gather(*made)

    async def _caller(self) -> None:
        while self._clock() < self._load.seconds:
            await self._make(next(self._calls))

    async def _make(self, call: Call) -> None:
        self._run.under_way += 1
        self._run.answers.append(await make(call, self._client, self._clock))
        self._run.under_way -= 1


async def _measure_lag(run: Run) -> None:
    while True:
        asleep = time.perf_counter()
        await asyncio.sleep(LAG_STEP_S)
        run.lags_s.append(time.perf_counter() - asleep - LAG_STEP_S)


async def _show(run: Run, show: Callable[[Run], None]) -> None:
    while True:
        show(run)
        await asyncio.sleep(PROGRESS_S)
