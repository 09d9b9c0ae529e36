"""Callers that cost a machine little: one process that notes when responses come, and reads them after the run.

On a machine of few cores the callers of `benchmarks.load`, which check every sample as it comes, take the time that the
server needs, and are themselves too late to say when a chunk came.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from benchmarks.load.caller import Answer, AnswerCheck
from benchmarks.load.plan import Call, Load, calls
from benchmarks.load.playback import Arrival
from misotts_client.errors import MisoError, error_from_text
from misotts_client.transport import ChunkReader, infer_request, open_channel

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
LAG_STEP_S = 0.005


@dataclass
class CheapRun:
    """The result of a load."""

    answers: list[Answer]
    """In the order of the calls."""
    cpu_s: float
    """CPU time of the callers' process during the run."""
    lags_s: list[float] = field(default_factory=list)
    """Delay of the callers' event loop every 5 ms."""


def run(url: str, load: Load) -> CheapRun:
    """Make the calls of an open loop in a new process, and hear all of them to their end. The server is warm."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_run, url, load).result()


def _run(url: str, load: Load) -> CheapRun:
    return asyncio.run(_drive(url, list(calls(load))))


@dataclass
class _Heard:
    """What one call has got: the responses' times and bytes, or the status of the call."""

    sent_s: float = 0.0
    ended_s: float = 0.0
    responses: list[tuple[float, bytes]] = field(default_factory=list)
    error: str = ""


async def _drive(url: str, planned: list[Call]) -> CheapRun:
    messages = [infer_request(call.request).SerializeToString() for call in planned]
    heard = [_Heard() for _ in planned]
    lags_s: list[float] = []
    async with open_channel(grpc.aio, url) as channel:
        await channel.channel_ready()
        method = channel.stream_stream(METHOD, None, None)  # bytes in, bytes out
        gc.collect()
        gc.disable()
        cpu, start = time.process_time(), time.perf_counter()

        async def make(n: int) -> None:
            each = heard[n]
            each.sent_s = time.perf_counter() - start
            call = method(iter([messages[n]]))
            try:
                async for data in call:
                    each.responses.append((time.perf_counter() - start, data))
            except grpc.aio.AioRpcError as error:
                each.error = error.details() or error.code().name
            each.ended_s = time.perf_counter() - start

        async def measure_lag() -> None:
            while True:
                asleep = time.perf_counter()
                await asyncio.sleep(LAG_STEP_S)
                lags_s.append(time.perf_counter() - asleep - LAG_STEP_S)

        watcher = asyncio.create_task(measure_lag())
        tasks = []
        for n, call in enumerate(planned):
            await asyncio.sleep((call.at_s or 0.0) - (time.perf_counter() - start))
            tasks.append(asyncio.create_task(make(n)))
        await asyncio.gather(*tasks)
        watcher.cancel()
        cpu_s = time.process_time() - cpu
    return CheapRun([_answer(call, each) for call, each in zip(planned, heard, strict=True)], cpu_s, lags_s)


def _answer(call: Call, heard: _Heard) -> Answer:
    """Read a call's responses."""
    answer = Answer(call, due_s=call.at_s or 0.0, sent_s=heard.sent_s, ended_s=heard.ended_s)
    check, reader = AnswerCheck(call.request), ChunkReader()
    try:
        for at_s, data in heard.responses:
            response: Any = service_pb2.ModelStreamInferResponse.FromString(data)
            if chunk := reader.read(response):
                if len(chunk.audio):
                    answer.arrivals.append(Arrival(at_s, len(chunk.audio)))
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
