"""From a caller's cancel to the moment its seat serves the next one, through the real ensemble.

    python -m benchmarks.cancel [--times 60]

The server has one seat. A first caller holds it, a second waits. The first cancels; the time until the second hears
something, less what it takes a caller who need not wait, is what the cancel took. It is a bound from above: the second
caller's own first audio varies too.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from pathlib import Path

from benchmarks.record import save
from misotts.serve.local import running_server
from misotts_client import Client, Stream

WARM_UP = 5


def first_audio(stream: Stream) -> float:
    """Wait for a stream's first samples; return when they came."""
    for chunk in stream:
        if len(chunk.audio):
            return time.perf_counter()
    raise RuntimeError("a stream without audio")


def alone(client: Client) -> float:
    """Seconds to first audio for a caller who need not wait."""
    began = time.perf_counter()
    with client.stream("I need not wait.", max_audio_ms=4_000) as stream:
        heard = first_audio(stream)
        for _ in stream:
            pass
    return heard - began


def after_a_cancel(client: Client, dice: random.Random) -> float:
    """Seconds from the first caller's cancel to the second one's first audio."""
    heard: list[float] = []

    def wait_in_line() -> None:
        with client.stream("I wait.", max_audio_ms=4_000) as second:
            heard.append(first_audio(second))
            for _ in second:
                pass

    with client.stream("I hold the seat.", max_audio_ms=120_000) as first:
        first_audio(first)
        waiting = threading.Thread(target=wait_in_line)
        waiting.start()
        time.sleep(dice.uniform(0.3, 0.8))
        cancelled = time.perf_counter()
        first.cancel()
    waiting.join()
    return heard[0] - cancelled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--times", type=int, default=60)
    arguments = parser.parse_args()
    dice = random.Random(0)
    with running_server(arguments.model, "--max-streams=1") as server, Client(server.url) as client:
        for _ in range(WARM_UP):
            alone(client)
        lone, cancels = [], []
        for _ in range(arguments.times):
            lone.append(alone(client) * 1000)
            cancels.append(after_a_cancel(client, dice) * 1000)
    base = statistics.median(lone)
    taken = sorted(each - base for each in cancels)
    figures = {
        "times": arguments.times,
        "first_audio_alone_ms": round(base),
        "cancel_ms": {
            "p50": round(statistics.median(taken)),
            "p95": round(taken[int(0.95 * (len(taken) - 1))]),
            "max": round(taken[-1]),
        },
    }
    print(figures)
    print(save("cancel", figures))


if __name__ == "__main__":
    main()
