"""The cost of HTTP: the gateway's CPU per stream-second by format, and what HTTP adds to the time to first audio.

    python -m benchmarks.http_cost

A stand-in for Triton sends chunks of 80 ms at the pace of playback. Formats take turns with a bare relay over gRPC, and
so do gRPC and HTTP where the first audio is timed.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import statistics
import time
from contextlib import closing
from typing import Any

import grpc

from benchmarks.gateway_cost import METHOD, OPTIONS, Place, in_process, listen, places, request
from benchmarks.record import save

STREAMS = 12
SECONDS = 3.0
TURNS = 3
CALLS = 300
RELAY = "gRPC relay"
REQUESTS: dict[str, dict[str, Any]] = {
    "pcm": {"response_format": "pcm"},
    "pcm, events": {"response_format": "pcm", "stream_format": "sse"},
    "pcm 8 kHz": {"response_format": "pcm", "sample_rate": 8_000},
    "pcm 48 kHz": {"response_format": "pcm", "sample_rate": 48_000},
    "mulaw": {"response_format": "mulaw"},
    "wav": {"response_format": "wav"},
    "flac": {"response_format": "flac"},
    "mp3": {"response_format": "mp3"},
    "opus": {"response_format": "opus"},
    "aac": {"response_format": "aac"},
}


def body(seconds: float, fields: dict[str, Any]) -> bytes:
    return json.dumps({"input": "Hello.", "max_audio_ms": int(seconds * 1000), **fields}).encode()


async def listen_http(port: int, raw: bytes, streams: int) -> None:
    """Hear `streams` answers at once, to their ends."""

    async def one(index: int) -> None:
        await asyncio.sleep(index * 0.08 / streams)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "POST /v1/audio/speech HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n"
        writer.write(head.encode() + f"content-length: {len(raw)}\r\n\r\n".encode() + raw)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        while await reader.read(65_536):
            pass
        writer.close()

    await asyncio.gather(*(one(index) for index in range(streams)))


def cpu_by_format(gateway: Place) -> dict[str, dict[str, float]]:
    """Return the gateway's CPU for a second of one stream in ms, and times the relay's, by format: medians of turns."""
    found: dict[str, list[float]] = {}
    for _ in range(TURNS):
        for name in (RELAY, *REQUESTS):
            before = gateway.cpu_s()
            if name == RELAY:
                in_process(listen, gateway.target, STREAMS, SECONDS)
            else:
                in_process(listen_http, gateway.http_port, body(SECONDS, REQUESTS[name]), STREAMS)
            ms = (gateway.cpu_s() - before) * 1000 / (STREAMS * SECONDS)
            found.setdefault(name, []).append(ms)
            print(name, round(ms, 2), flush=True)
    medians = {name: statistics.median(all) for name, all in found.items()}
    return {name: {"ms": round(ms, 2), "times_relay": round(ms / medians[RELAY], 2)} for name, ms in medians.items()}


def first_audio(gateway: Place) -> dict[str, float]:
    """Return the time to first audio of calls of one frame over gRPC and over HTTP (pcm), in turns, in ms."""
    raw, message = body(0.08, REQUESTS["pcm"]), request(0.08)
    times: dict[str, list[float]] = {"grpc": [], "http": []}
    with (
        grpc.insecure_channel(gateway.target, OPTIONS) as channel,
        closing(http.client.HTTPConnection("127.0.0.1", gateway.http_port)) as connection,
    ):
        for index in range(CALLS + 10):
            began = time.perf_counter()
            call = channel.unary_stream(METHOD)(message)
            next(call)
            grpc_ms = (time.perf_counter() - began) * 1000
            list(call)
            began = time.perf_counter()
            connection.request("POST", "/v1/audio/speech", raw, {"content-type": "application/json"})
            response = connection.getresponse()
            assert response.read1(4096)
            http_ms = (time.perf_counter() - began) * 1000
            response.read()
            if index >= 10:
                times["grpc"].append(grpc_ms)
                times["http"].append(http_ms)
    added = [http - grpc for grpc, http in zip(times["grpc"], times["http"], strict=True)]
    return {
        "calls": CALLS,
        **{f"{name}_ms": round(statistics.median(all), 2) for name, all in times.items()},
        "added_ms": round(statistics.median(added), 2),
    }


def main() -> None:
    with places() as (_, gateway):
        time.sleep(2)
        figures: dict[str, Any] = {"first_audio": first_audio(gateway)}
        print(figures["first_audio"], flush=True)
        figures |= {"streams": STREAMS, "cpu_per_stream_second": cpu_by_format(gateway)}
    print(save("http-cost", figures))


if __name__ == "__main__":
    main()
