"""Drives a load against a server from one event loop, and measures that loop's lateness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.load.caller import Answer, make
from benchmarks.load.openai import OpenAiClient, OpenAiServer
from benchmarks.load.plan import Call, Load, calls
from misotts_client import AsyncClient

WARM_UP = 3
"""Utterances before the clock starts: the first ones initialise libraries."""
LAG_STEP_S = 0.005
PROGRESS_S = 0.5


@dataclass
class Run:
    """The result of a load."""

    answers: list[Answer] = field(default_factory=list)
    """In the order of their ends; after the run in the order of the calls."""
    under_way: int = 0
    seconds: float = 0.0
    """Time from the start to the end of the last call."""
    lags_s: list[float] = field(default_factory=list)
    """Delay of the event loop every 5 ms, which the generator may have added to any time."""
    cpu_s: float = 0.0
    """CPU time of the generator's process."""


async def drive(
    load: Load, url: str, begin: Callable[[], None], show: Callable[[Run], None], http: OpenAiServer | None = None
) -> Run:
    """Warm the server up, make the calls, and hear all of them to their end.

    Args:
        load: the calls to make.
        url: host and gRPC port of the server.
        begin: called between the warm-up and the first call.
        show: called with the run so far, twice a second.
        http: call this server by OpenAI's HTTP instead of `url`.

    Raises:
        MisoError: the server does not answer even one call at a time.
    """
    run, planned = Run(), calls(load)

    async def make_call(call: Call) -> None:
        run.under_way += 1
        run.answers.append(await make(call, client, clock))
        run.under_way -= 1

    async def open_loop() -> None:
        tasks = []
        for call in planned:
            await asyncio.sleep((call.at_s or 0.0) - clock())
            tasks.append(asyncio.create_task(make_call(call)))
        await asyncio.gather(*tasks)

    async def closed_loop() -> None:
        while clock() < load.end_s:
            await make_call(next(planned))

    async with OpenAiClient(http) if http else AsyncClient(url) as client:
        for _ in range(WARM_UP):
            await client.speak("Warming up.", max_audio_ms=800)
        begin()
        cpu, start = time.process_time(), time.perf_counter()

        def clock() -> float:
            return time.perf_counter() - start

        watchers = [asyncio.create_task(_measure_lag(run)), asyncio.create_task(_show(run, show))]
        await asyncio.gather(*[closed_loop() for _ in range(load.streams)] if load.streams else [open_loop()])
        run.seconds = clock()
        run.cpu_s = time.process_time() - cpu
        for watcher in watchers:
            watcher.cancel()
    run.answers.sort(key=lambda answer: answer.call.number)
    return run


async def _measure_lag(run: Run) -> None:
    while True:
        asleep = time.perf_counter()
        await asyncio.sleep(LAG_STEP_S)
        run.lags_s.append(time.perf_counter() - asleep - LAG_STEP_S)


async def _show(run: Run, show: Callable[[Run], None]) -> None:
    while True:
        show(run)
        await asyncio.sleep(PROGRESS_S)
