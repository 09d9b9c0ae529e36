"""Callers that cost a machine little: one process that notes when responses come, and reads them after the run.

On a machine of few cores the callers of `benchmarks.load`, which check every sample as it comes, take the time that the
server needs, and are themselves too late to say when a chunk came.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from benchmarks.load.caller import Answer, AnswerCheck
from benchmarks.load.plan import Call, Load, calls
from misotts_client.errors import MisoError, error_from_text
from misotts_client.transport import ChunkReader, infer_request, open_channel
from misotts_gateway.upstream import METHOD

CONNECT_S = 30.0
LAG_STEP_S = 0.005


@dataclass
class CheapRun:
    """The result of a load."""

    answers: list[Answer]
    """In the order of the calls."""
    seconds: float
    """Time from the start to the end of the last call."""
    cpu_s: float
    """CPU time of the callers' process during the run."""
    lags_s: list[float] = field(default_factory=list)
    """Delay of the callers' event loop every 5 ms."""


def run(url: str, load: Load) -> CheapRun:
    """Make the calls of a load in a new process, and hear all of them to their end. The server is warm."""
    # A session of its own, so that where Linux shares the CPU among sessions the callers do not wait for the server.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=os.setsid) as process:
        return process.submit(_run, url, load).result()


def _run(url: str, load: Load) -> CheapRun:
    return asyncio.run(_drive(url, load))


@dataclass
class _Heard:
    """What one call has got: the responses' times and bytes, or the status of the call."""

    call: Call
    due_s: float
    sent_s: float
    ended_s: float = 0.0
    responses: list[tuple[float, bytes]] = field(default_factory=list)
    error: str = ""


async def _drive(url: str, load: Load) -> CheapRun:
    heard: list[_Heard] = []
    lags_s: list[float] = []
    async with open_channel(grpc.aio, url) as channel:
        await asyncio.wait_for(channel.channel_ready(), CONNECT_S)
        method = channel.stream_stream(METHOD, None, None)  # bytes in, bytes out
        gc.collect()
        gc.disable()
        cpu, start = time.process_time(), time.perf_counter()

        def clock() -> float:
            return time.perf_counter() - start

        async def make(call: Call) -> None:
            message = infer_request(call.request).SerializeToString()
            now = clock()
            each = _Heard(call, now if call.at_s is None else call.at_s, now)
            heard.append(each)
            try:
                async for data in method(iter([message])):
                    each.responses.append((clock(), data))
            except grpc.aio.AioRpcError as error:
                each.error = error.details() or error.code().name
            each.ended_s = clock()

        async def open_loop() -> None:
            tasks = []
            for call in calls(load):
                await asyncio.sleep((call.at_s or 0.0) - clock())
                tasks.append(asyncio.create_task(make(call)))
            await asyncio.gather(*tasks)

        async def closed_loop() -> None:
            while clock() < load.seconds:
                await make(next(planned))

        async def measure_lag() -> None:
            while True:
                asleep = time.perf_counter()
                await asyncio.sleep(LAG_STEP_S)
                lags_s.append(time.perf_counter() - asleep - LAG_STEP_S)

        planned = calls(load)
        watcher = asyncio.create_task(measure_lag())
        await asyncio.gather(*[closed_loop() for _ in range(load.streams)] if load.streams else [open_loop()])
        watcher.cancel()
        seconds, cpu_s = clock(), time.process_time() - cpu
    heard.sort(key=lambda each: each.call.number)
    return CheapRun([_answer(each) for each in heard], seconds, cpu_s, lags_s)


def _answer(heard: _Heard) -> Answer:
    """Read a call's responses."""
    answer = Answer(heard.call, due_s=heard.due_s, sent_s=heard.sent_s, ended_s=heard.ended_s)
    check, reader = AnswerCheck(heard.call.request), ChunkReader()
    try:
        for at_s, data in heard.responses:
            response: Any = service_pb2.ModelStreamInferResponse.FromString(data)
            if chunk := reader.read(response):
                if len(chunk.audio):
                    answer.hear(chunk.audio, at_s)
                check.add(chunk)
                answer.finish = chunk.finish
        if heard.error:
            raise error_from_text(heard.error)
        reader.end()
        check.end()
    except MisoError as error:
        answer.error, answer.words = error.code, str(error).removeprefix(f"{error.code}: ")
    answer.error = answer.error or check.fault
    return answer
