"""Thousands of callers, most of them faulty; afterwards the server may hold nothing and must not have grown.

    python -m benchmarks.soak [--requests 2000]

Callers listen to the end, cancel after some chunks or at once, are killed with SIGKILL, set too short a deadline or
send a wrong request. Callers that listen to the end must get every sample.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.record import save
from benchmarks.usage import Usage, usage
from misotts.config import FRAME_MS, FRAME_SAMPLES
from misotts.serve.local import RunningServer, running_server
from misotts.serve.tritonserver import KEPT_MIB
from misotts_client import Client
from misotts_client.errors import DeadlineExceeded, InvalidArgument, MisoError, Unavailable

CALLERS = 12
SETTLE_S = 10.0
MAX_GROWTH_MIB = 40.0 + KEPT_MIB
MAX_GROWTH_DESCRIPTORS = 8

Caller = Callable[[Client, random.Random], str]
"""Makes one call and returns what became of it."""


def listens(client: Client, rng: random.Random) -> str:
    frames = rng.randint(1, 25)
    chunk_frames = rng.choice([0, 0, 1, 5])
    speech = client.speak("Hello from Miso.", max_audio_ms=frames * FRAME_MS, chunk_frames=chunk_frames)
    if len(speech.audio) != frames * FRAME_SAMPLES or speech.finish != "length":
        raise AssertionError(f"asked for {frames} frames, got {len(speech.audio) / FRAME_SAMPLES} and {speech.finish}")
    return "listened"


def hangs_up(client: Client, rng: random.Random) -> str:
    with client.stream("I shall not hear the end.", max_audio_ms=40_000) as stream:
        for _ in range(rng.randint(0, 4)):
            next(stream)
    return "hung up"


def is_killed(client: Client, rng: random.Random) -> str:
    """Kill a process that listens."""
    process = multiprocessing.get_context("spawn").Process(target=_listen_forever, args=(client.url,), daemon=True)
    process.start()
    time.sleep(rng.uniform(0.3, 1.5))
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return "killed"


def _listen_forever(url: str) -> None:
    with Client(url) as client:
        for _ in client.stream("Until the end.", max_audio_ms=80_000):
            pass


def hurries(client: Client, rng: random.Random) -> str:
    try:
        client.speak("Quick!", max_audio_ms=60_000, timeout_ms=rng.randint(1, 600))
    except DeadlineExceeded:
        return "ran out of time"
    raise AssertionError("a minute of speech came within its deadline")


def asks_wrongly(client: Client, rng: random.Random) -> str:
    try:
        client.speak("Hello.", temperature=rng.choice([-1.0, 3.0]))
    except InvalidArgument:
        return "was refused"
    raise AssertionError("a temperature outside its limits was accepted")


KINDS: tuple[tuple[Caller, float], ...] = ((listens, 0.5), (hangs_up, 0.3), (hurries, 0.1), (asks_wrongly, 0.1))


@dataclass(frozen=True)
class Outcome:
    """The result of a soak."""

    callers: Counter[str]
    faults: list[str]


def soak(server: RunningServer, requests: int, killed: int, seed: int = 0, progress: bool = False) -> Outcome:
    """Run `requests` callers of `KINDS` and `killed` callers that are killed; then look for what is left."""
    rng = random.Random(seed)
    callers, weights = zip(*KINDS, strict=True)
    plan = [*rng.choices(callers, weights, k=requests), *[is_killed] * killed]
    rng.shuffle(plan)
    with Client(server.url) as client, ThreadPoolExecutor(CALLERS) as pool:

        def call(number: int, caller: Caller) -> str:
            try:
                return caller(client, random.Random(seed * 1_000_003 + number))
            except Unavailable:
                return "found no place"
            except (MisoError, AssertionError) as error:
                return f"fault: {caller.__name__}: {error}"

        results = list(track(pool.map(call, range(len(plan)), plan), "soak", len(plan), disable=not progress))
    faults = [result for result in results if result.startswith("fault: ")]
    return Outcome(Counter(results) - Counter(faults), faults + left_behind(server))


def left_behind(server: RunningServer) -> list[str]:
    """Return what the server still holds once it has had time to notice that all callers have left."""
    limit = time.monotonic() + SETTLE_S
    held = {"streams": 1.0}
    while any(held.values()) and time.monotonic() < limit:
        time.sleep(0.2)
        state = server.metrics()
        held = {name: state[f"misotts_generate_{name}"] for name in ("streams", "running", "waiting", "blocks_used")}
    faults = [f"{value:g} {name} are left in generate" for name, value in held.items() if value]
    return faults if server.is_ready else [*faults, "the server is no longer ready"]


def growth(before: list[Usage], after: list[Usage]) -> list[str]:
    """Return growth that allocators and caches do not explain."""
    faults = []
    for old, new in zip(before, after, strict=True):
        if new.memory_mib - old.memory_mib > MAX_GROWTH_MIB:
            faults.append(f"{new.name} grew from {old.memory_mib:.0f} to {new.memory_mib:.0f} MiB")
        if new.descriptors - old.descriptors > MAX_GROWTH_DESCRIPTORS:
            faults.append(f"{new.name} went from {old.descriptors} to {new.descriptors} descriptors")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--killed", type=int, default=40)
    arguments = parser.parse_args()
    with running_server(arguments.model) as server:
        soak(server, requests=arguments.requests // 2, killed=2, seed=1)  # allocators, caches and the KV pool fill
        before, began = usage(server), time.monotonic()
        outcome = soak(server, arguments.requests, arguments.killed, progress=True)
        seconds, after = round(time.monotonic() - began), usage(server)
    faults = outcome.faults + growth(before, after)
    found: dict[str, Any] = {"seconds": seconds, "callers": dict(outcome.callers), "faults": faults, "usage": {}}
    for old, new in zip(before, after, strict=True):
        memory, descriptors = [round(old.memory_mib), round(new.memory_mib)], [old.descriptors, new.descriptors]
        found["usage"][old.name] = {"memory_mib": memory, "descriptors": descriptors}
    print(*(f"{name}: {value}" for name, value in found.items()), sep="\n")
    print(save("soak", found))
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
