"""The cost of the gateway: time to first audio, CPU per stream-second, refusals a second, memory.

    python -m benchmarks.gateway_cost [--server]

A stand-in for Triton sends chunks of 80 ms at the pace of playback, so that any number of streams can be had. Calls
through the gateway and direct calls take turns. With `--server` the time to first audio of a real server is measured
too: its direct calls go to the private Triton's socket.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from tritonclient.grpc import service_pb2

from benchmarks.record import save
from misotts.config import FRAME_MS, FRAME_SAMPLES
from misotts.serve.local import free_ports, running_server
from misotts_client.request import SpeechRequest
from misotts_client.transport import infer_request
from misotts_gateway.upstream import METHOD

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
STREAMS = (8, 64, 200)
TURNS = 3
LOAD_S = 6.0
STREAMS_PER_CHANNEL = 50
FLOOD = 1
"""A request with this seed is answered without pause and without end."""


@dataclass(frozen=True)
class Place:
    """A process that answers ModelStreamInfer at `target`, and a gateway HTTP on a port."""

    target: str
    process: psutil.Process
    http_port: int = 0

    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def request(seconds: float, **fields: Any) -> bytes:
    message = infer_request(SpeechRequest("Hello.", max_audio_ms=int(seconds * 1000), **fields))
    return bytes(message.SerializeToString())


def chunk(finish: bytes) -> bytes:
    """Return a serialized response with one frame of audio."""
    response = service_pb2.ModelStreamInferResponse()
    for name, datatype, shape, raw in (
        ("AUDIO", "FP32", FRAME_SAMPLES, bytes(4 * FRAME_SAMPLES)),
        ("FRAME", "INT32", 1, bytes(4)),
        ("SEED_USED", "INT64", 1, bytes(8)),
        ("SESSION_TURNS", "INT32", 1, bytes(4)),
        ("FINISH", "BYTES", 1, struct.pack("<I", len(finish)) + finish),
    ):
        response.infer_response.outputs.add(name=name, datatype=datatype, shape=[shape])
        response.infer_response.raw_output_contents.append(raw)
    return bytes(response.SerializeToString())


def serve_stand_in(target: str) -> None:
    """Run the stand-in until the process is killed."""
    middle, last = chunk(b""), chunk(b"length")

    async def answer(_: Any, context: Any) -> None:
        message = service_pb2.ModelInferRequest.FromString(await context.read())
        values = {each.name: raw for each, raw in zip(message.inputs, message.raw_input_contents, strict=True)}
        chunks = struct.unpack("<i", values["MAX_AUDIO_MS"])[0] // FRAME_MS
        flood = values.get("SEED") == struct.pack("<q", FLOOD)
        began = time.monotonic()
        for index in range(chunks):
            await context.write(last if index == chunks - 1 and not flood else middle)
            if not flood and index < chunks - 1:
                await asyncio.sleep(began + (index + 1) * FRAME_MS / 1000 - time.monotonic())

    async def run() -> None:
        handler = grpc.stream_stream_rpc_method_handler(answer)
        server = grpc.aio.server(options=(("grpc.http2.bdp_probe", 0),))
        service, method = METHOD[1:].split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        server.add_insecure_port(target)
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


@contextlib.contextmanager
def places() -> Iterator[tuple[Place, Place]]:
    """Run the stand-in and a gateway before it."""
    with tempfile.TemporaryDirectory() as run:
        target = f"unix:{run}/grpc:1"
        ports = dict(zip(("grpc", "http", "ready"), free_ports(3), strict=True))
        flags = [f"--{name}-port={port}" for name, port in ports.items()]
        flags += [f"--upstream={target}", "--host=127.0.0.1", "--streams-per-address=1000"]
        commands = [["benchmarks.gateway_cost", f"--stand-in={target}"], ["misotts_gateway", *flags]]
        processes = [subprocess.Popen([sys.executable, "-m", *command]) for command in commands]
        try:
            found = [
                Place(where, psutil.Process(process.pid), ports["http"])
                for where, process in zip((target, f"127.0.0.1:{ports['grpc']}"), processes, strict=True)
            ]
            for place in found:
                with grpc.insecure_channel(place.target, OPTIONS) as channel:
                    grpc.channel_ready_future(channel).result(60)
            yield found[0], found[1]
        finally:
            for process in processes:
                process.kill()
                process.wait()


async def listen(target: str, streams: int, seconds: float) -> list[float]:
    """Hear `streams` utterances at once; return by how many ms each message was late for the pace of playback."""
    count = -(-streams // STREAMS_PER_CHANNEL)
    channels = [grpc.aio.insecure_channel(target, options=OPTIONS) for _ in range(count)]
    data = request(seconds)

    async def one(index: int) -> list[float]:
        await asyncio.sleep(index * 0.08 / streams)
        late: list[float] = []
        began = 0.0
        async for _ in channels[index % count].unary_stream(METHOD)(data):
            began = began or time.monotonic()
            late.append((time.monotonic() - began - len(late) * FRAME_MS / 1000) * 1000)
        return late

    try:
        return [ms for late in await asyncio.gather(*(one(index) for index in range(streams))) for ms in late]
    finally:
        for channel in channels:
            await channel.close()


def in_process(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Run an async function in a process of its own; return its result and the CPU time of that process in s."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_timed, (function, arguments))


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    began = time.process_time()
    result = asyncio.run(function(*arguments))
    return result, time.process_time() - began


def cpu_per_stream_second(stand_in: Place, gateway: Place) -> list[dict[str, Any]]:
    """Return for each number of streams the CPU of each process per stream-second, in ms: medians over turns."""
    rows = []
    for streams in STREAMS:
        found: dict[str, list[float]] = {}
        for _ in range(TURNS):
            for way, place in (("direct", stand_in), ("gateway", gateway)):
                before = stand_in.cpu_s(), gateway.cpu_s()
                late, client_s = in_process(listen, place.target, streams, LOAD_S)
                after = stand_in.cpu_s(), gateway.cpu_s()
                ms = 1000 / (streams * LOAD_S)
                found.setdefault(f"{way}_late_p99_ms", []).append(statistics.quantiles(late, n=100)[-1])
                found.setdefault(f"{way}_client_ms", []).append(client_s * ms)
                found.setdefault(f"{way}_server_ms", []).append((after[0] - before[0]) * ms)
                if way == "gateway":
                    found.setdefault("gateway_ms", []).append((after[1] - before[1]) * ms)
        rows.append({"streams": streams, **{name: round(statistics.median(all), 2) for name, all in found.items()}})
        print(rows[-1], flush=True)
    return rows


async def first_messages(targets: list[str], data: bytes, count: int) -> list[list[float]]:
    """Return for each target the times to the first message of `count` calls, in ms; the targets take turns."""
    channels = [grpc.aio.insecure_channel(target, options=OPTIONS) for target in targets]
    found: list[list[float]] = [[] for _ in targets]
    for index in range(count + 5):
        for times, channel in zip(found, channels, strict=True):
            began = time.perf_counter()
            call = channel.unary_stream(METHOD)(data)
            await call.read()
            if index >= 5:
                times.append((time.perf_counter() - began) * 1000)
            while await call.read() is not grpc.aio.EOF:
                pass
    for channel in channels:
        await channel.close()
    return found


def first_audio(targets: list[str], data: bytes, count: int) -> dict[str, float]:
    (direct, through), _ = in_process(first_messages, targets, data, count)
    added = [b - a for a, b in zip(direct, through, strict=True)]
    return {
        "calls": count,
        "direct_ms": round(statistics.median(direct), 2),
        "gateway_ms": round(statistics.median(through), 2),
        "added_ms": round(statistics.median(added), 2),
    }


async def refusals(target: str, data: bytes, seconds: float) -> int:
    """Return how many requests were refused: 32 calls at once on one connection."""
    channel = grpc.aio.insecure_channel(target, options=OPTIONS)
    end = time.monotonic() + seconds
    count = 0

    async def one() -> None:
        nonlocal count
        while time.monotonic() < end:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for response in channel.unary_stream(METHOD)(data):
                    assert service_pb2.ModelStreamInferResponse.FromString(response).error_message
            count += 1

    await asyncio.gather(*(one() for _ in range(32)))
    await channel.close()
    return count


def refusal_rates(gateway: Place) -> dict[str, int]:
    """Return the refusals a second of the gateway's CPU time."""
    rates = {}
    for name, data in (
        ("a value outside its limits", request(1, top_k=0)),
        ("garbage of 1 KB", bytes(range(1, 128)) * 8),
        ("8 MB of empty inputs", b"\x2a\x00" * 4_000_000),
    ):
        before = gateway.cpu_s()
        count, _ = in_process(refusals, gateway.target, data, 3.0)
        rates[name] = round(count / (gateway.cpu_s() - before))
    return rates


def hold_unread(target: str, callers: int, ready: Any) -> None:
    """Open `callers` connections with a stream each that is never read."""
    channels = [grpc.insecure_channel(target, OPTIONS) for _ in range(callers)]
    calls = [channel.unary_stream(METHOD)(request(150, seed=FLOOD)) for channel in channels]
    for call in calls:
        next(call)
    ready.set()
    time.sleep(3600)


def memory_of_unread(gateway: Place, callers: int = 100) -> dict[str, float]:
    """Return the gateway's memory before and while callers do not read what has no end."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    idle = gateway.process.memory_info().rss
    process = context.Process(target=hold_unread, args=(gateway.target, callers, ready), daemon=True)
    process.start()
    assert ready.wait(60)
    most = 0
    for _ in range(100):
        time.sleep(0.1)
        most = max(most, gateway.process.memory_info().rss)
    process.kill()
    process.join()
    return {"callers": callers, "idle_mb": round(idle / 1e6, 1), "above_idle_mb": round((most - idle) / 1e6, 1)}


def real_first_audio(model: Path, count: int) -> dict[str, float]:
    """Return the time to first audio of a real server: direct calls go to its private socket."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # where the server makes its run folder
        with running_server(model) as server:
            (run,) = Path(folder).glob("misotts-*")
            data = request(0.4, seed=2, chunk_frames=1)
            return first_audio([f"unix:{run}/grpc:1", server.url], data, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="store_true", help="also measure before the real server")
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    parser.add_argument("--stand-in", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stand_in:
        serve_stand_in(arguments.stand_in)
        return
    figures: dict[str, Any] = {"load_average": os.getloadavg()[0]}  # of other work: late messages depend on it
    with places() as (stand_in, gateway):
        time.sleep(2)
        figures["memory"] = memory_of_unread(gateway)
        print(figures["memory"], flush=True)
        figures["first_audio"] = first_audio([stand_in.target, gateway.target], request(0.08), 300)
        print(figures["first_audio"], flush=True)
        figures["refusals_per_core_second"] = refusal_rates(gateway)
        print(figures["refusals_per_core_second"], flush=True)
        figures["cpu_per_stream_second"] = cpu_per_stream_second(stand_in, gateway)
    if arguments.server:
        figures["first_audio_of_the_server"] = real_first_audio(arguments.model, 100)
        print(figures["first_audio_of_the_server"])
    print(save("gateway-cost", figures))


if __name__ == "__main__":
    main()
