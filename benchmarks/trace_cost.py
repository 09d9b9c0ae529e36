"""The CPU time of OpenTelemetry's spans for an utterance: in the gateway, export included, and in the stages.

    python -m benchmarks.trace_cost [--utterances 2000] [--save]

The spans of each utterance go through a socket as in a server. They are exported by OTLP to a collector in another
process that reads and forgets them.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from benchmarks.record import save
from misotts_gateway.callers import Caller
from misotts_gateway.spans import NAMES, SpanSender
from misotts_gateway.traces import Traces

ROUNDS = 5
CALLER = Caller("127.0.0.1", "0123456789abcdef", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")


class _Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def _collect(connection: Any) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Collector)
    connection.send(server.server_port)
    server.serve_forever()


async def measure(folder: Path, utterances: int) -> tuple[float, float]:
    """Return the CPU time of an utterance in microseconds, of the stages' sends and of all the rest."""
    traces, sender = Traces(folder, lambda: None), SpanSender(folder)
    traces.listen()
    stages_s, began = 0.0, time.process_time()
    for ticket in range(1, utterances + 1):
        span = traces.begin(ticket, CALLER, 60)
        before = time.process_time()
        for name in NAMES:
            now = time.monotonic()
            sender.send(name, now - 0.01, now, ticket, ticket)
        stages_s += time.process_time() - before
        await asyncio.sleep(0.001)
        span.set_attributes({"misotts.audio_s": 3.2, "misotts.outcome": "eos"})
        span.end()
    await traces.close()
    spent = time.process_time() - began
    return stages_s / utterances * 1e6, (spent - stages_s) / utterances * 1e6


async def _empty(utterances: int) -> float:
    """Return the CPU time of the loop around it."""
    began = time.process_time()
    for _ in range(utterances):
        await asyncio.sleep(0.001)
    return (time.process_time() - began) / utterances * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--utterances", type=int, default=2000)
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results")
    asked = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    collector = multiprocessing.Process(target=_collect, args=(theirs,), daemon=True)
    collector.start()
    theirs.close()  # so that the end of the collector ends the wait for its port
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{ours.recv()}"
    rounds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            stages, rest = asyncio.run(measure(Path(folder), asked.utterances))
        rounds.append((stages, rest - asyncio.run(_empty(asked.utterances))))
    collector.terminate()
    figures = {
        "utterances": asked.utterances,
        "rounds": ROUNDS,
        "stages_us": round(statistics.median(stages for stages, _ in rounds), 1),
        "gateway_us": round(statistics.median(rest for _, rest in rounds), 1),
        "gateway_us_range": [round(min(rest for _, rest in rounds), 1), round(max(rest for _, rest in rounds), 1)],
    }
    print(figures)
    if asked.save:
        print(save("trace-cost", figures))


if __name__ == "__main__":
    main()
