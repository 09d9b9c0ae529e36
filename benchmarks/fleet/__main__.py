"""Restarts and deaths of servers behind Envoy, under a steady load of listeners: `make fleet`.

    python -m benchmarks.fleet [--model models/random] [--replicas 2] [--save]

Each caller makes one call after the other over TLS, at the pace of playback; every other caller names a session. The
parts are: no event; each server drained and started again, in turn; a server killed with SIGKILL. It exits with status
1 beyond the limits below, and with `--save` it writes `benchmarks/results/fleet-DATE.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fleet.envoy import RunningEnvoy, running_envoy
from benchmarks.fleet.replicas import Replica, running_replicas
from benchmarks.load.caller import Answer, make
from benchmarks.load.drive import WARM_UP
from benchmarks.load.plan import Call
from benchmarks.load.playback import play
from benchmarks.record import save
from misotts_client import AsyncClient, SpeechRequest

TEXT = "A listener hears this at the pace of playback."
AUDIO_MS = 9_600
LEAD_MS = 3_000
"""What a listener has in hand. Streams then last as long as their playback: restarts and deaths meet running ones."""
CALLERS = 4
CONVERSATIONS = 12
BURST = 4
"""Calls that have just begun when a server is killed."""
QUIET_S = 20.0
SETTLE_S = 3.0
"""Envoy looks at /ready every second."""
AFTER_DEATH_S = 12.0

# Limits.
GAP_S = 1.0
"""Longest silence within an utterance while servers restart. Here a server that loads takes cores from listeners."""
ERROR_S = 1.0
"""Time after a death in which a caller that has begun to listen gets its error."""
RECOVERY_S = 3.0
"""Time after a death in which every caller has audio again."""


@dataclass
class Part:
    """The calls of one part of the measurement."""

    name: str
    answers: list[Answer] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)
    turns: list[list[int]] = field(default_factory=list)
    """What the servers knew of each conversation: at its first and second turn, and after a death."""

    @property
    def failed(self) -> list[Answer]:
        return [each for each in self.answers if each.error]

    def figures(self) -> dict[str, Any]:
        firsts = [each.ttfa_s for each in self.answers if each.ttfa_s is not None]
        audible = [each.audible_ttfa_s for each in self.answers if each.audible_ttfa_s is not None]
        silences = [each.leading_silence_s for each in self.answers if each.leading_silence_s is not None]
        return {
            "calls": len(self.answers),
            "failed": len(self.failed),
            "audio_s": round(sum(each.audio_s for each in self.answers), 2),
            "largest_gap_s": round(max((play(each.arrivals).longest_s for each in self.answers), default=0.0), 3),
            "ttfa_median_s": round(statistics.median(firsts), 3) if firsts else None,
            "ttfa_largest_s": round(max(firsts), 3) if firsts else None,
            "audible_ttfa_median_s": round(statistics.median(audible), 3) if audible else None,
            "audible_ttfa_largest_s": round(max(audible), 3) if audible else None,
            "leading_silence_median_s": round(statistics.median(silences), 3) if silences else None,
            **{name: round(value, 2) for name, value in self.notes.items()},
            **({"earlier_turns": self.turns} if self.turns else {}),
        }


class Callers:
    """Callers that call again and again, each over its own connection.

    Attributes:
        part: the part to which a call belongs that ends now.
    """

    def __init__(self, envoy: RunningEnvoy) -> None:
        self._envoy, self._numbers = envoy, iter(range(10**6))
        self._began = time.monotonic()
        self.part = Part("")

    def now(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began

    @contextlib.asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """Let the callers call during the block, and hear their last calls to the end."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._call_again(number, stop)) for number in range(CALLERS)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _call_again(self, number: int, stop: asyncio.Event) -> None:
        await asyncio.sleep(number * AUDIO_MS / 1000 / CALLERS)
        session = f"conversation-{number}" if number % 2 else None
        async with self._client() as client:
            while not stop.is_set():
                answer = await self.call(client, session)
                if answer.arrivals:  # the listener hears the rest
                    await asyncio.sleep(max(answer.arrivals[0].at_s + answer.audio_s - self.now(), 0))

    async def call(self, client: AsyncClient, session: str | None = None) -> Answer:
        """Make one call."""
        number = next(self._numbers)
        request = SpeechRequest(TEXT, seed=number, max_audio_ms=AUDIO_MS, lead_ms=LEAD_MS, session=session)
        answer = await make(Call(number, None, request, "listens", math.inf), client, self.now)
        answer.audio.clear()
        self.part.answers.append(answer)
        return answer

    async def burst(self) -> None:
        """Make `BURST` calls at once, of a caller without a session."""
        async with self._client() as client:
            await asyncio.gather(*(self.call(client) for _ in range(BURST)))

    async def warm_up(self) -> None:
        """Speak a little with every server."""
        async with self._client() as client:
            for _ in range(WARM_UP * 2):
                await client.speak(TEXT, max_audio_ms=800)

    async def turns(self) -> list[int]:
        """Let each of `CONVERSATIONS` conversations speak once; return the earlier turns that their servers knew."""
        async with self._client() as client:
            spoken = [await client.speak(TEXT, max_audio_ms=800, session=f"talk-{n}") for n in range(CONVERSATIONS)]
        return [each.session_turns or 0 for each in spoken]

    def _client(self) -> AsyncClient:
        return AsyncClient(self._envoy.url, ca=self._envoy.ca)


async def measure(envoy: RunningEnvoy, replicas: list[Replica]) -> list[Part]:
    """Return the three parts."""
    callers = Callers(envoy)
    await callers.warm_up()
    parts = []

    async def part(name: str, event: Callable[[Part], Any]) -> None:
        callers.part = found = Part(name)
        async with callers.calling():
            await event(found)
        parts.append(found)
        print(f"{name}: {found.figures()}", flush=True)

    async def nothing(_: Part) -> None:
        await asyncio.sleep(QUIET_S)

    async def restarts(found: Part) -> None:
        await asyncio.sleep(2.0)
        for number, replica in enumerate(replicas):
            found.notes[f"restart_{number}_s"] = await asyncio.to_thread(replica.restart)
            await asyncio.sleep(SETTLE_S)

    async def death(found: Part) -> None:
        found.turns.append(await callers.turns())
        found.turns.append(await callers.turns())
        await asyncio.sleep(AUDIO_MS / 1000 + 1)
        calls = asyncio.create_task(callers.burst())
        await asyncio.sleep(0.02)
        killed = callers.now()
        await asyncio.to_thread(replicas[0].kill)
        await asyncio.sleep(AFTER_DEATH_S)
        await calls
        found.turns.append(await callers.turns())
        await asyncio.to_thread(replicas[0].start)
        found.notes["back_s"] = callers.now() - killed
        await asyncio.sleep(SETTLE_S)
        found.notes.update(after_death(found.answers, killed))

    await part("no event", nothing)
    await part("rolling restart", restarts)
    await part("death", death)
    return parts


def after_death(answers: list[Answer], killed: float) -> dict[str, float]:
    """Return how the calls went that a death met, and those that came after it.

    `error_s` is the time from the death to the last error; `recovery_s` the time to the first audio of the last of the
    calls that began in the second before the death without having audio yet, or in the second after it.
    """
    broken = [each for each in answers if each.error]
    waiting = [
        each
        for each in answers
        if killed - 1 < each.sent_s < killed + 1 and each.arrivals and each.arrivals[0].at_s > killed
    ]
    return {
        "broken_with_audio": sum(bool(each.arrivals) for each in broken),
        "broken_without_audio": sum(not each.arrivals for each in broken),
        "retried_or_new": len(waiting),
        "error_s": max((each.ended_s - killed for each in broken), default=0.0),
        "recovery_s": max((each.arrivals[0].at_s - killed for each in waiting), default=0.0),
    }


def faults(parts: list[Part]) -> list[str]:
    """Return what is beyond the limits, in words."""
    quiet, restart, death = parts
    found = []
    for part in (quiet, restart):
        found += [f"{part.name}: a call failed: {each.error}: {each.words}" for each in part.failed]
    gap = restart.figures()["largest_gap_s"]
    if gap > max(GAP_S, quiet.figures()["largest_gap_s"]):
        found.append(f"{restart.name}: a listener heard nothing for {gap:g} s, more than {GAP_S:g} s")
    notes = death.notes
    if not notes["retried_or_new"]:
        found.append("death: no call waited for its audio at that moment")
    if notes["broken_without_audio"]:
        found.append(f"death: {notes['broken_without_audio']:g} calls without a first chunk failed")
    first, second, after = death.turns
    if first != [0] * CONVERSATIONS or second != [1] * CONVERSATIONS or set(after) != {0, 2}:
        found.append(f"death: conversations do not stay, or do not go on: their servers knew {death.turns} turns")
    for name, limit in (("error_s", ERROR_S), ("recovery_s", RECOVERY_S)):
        if notes[name] > limit:
            found.append(f"death: {name} is {notes[name]:.2f}, more than {limit:g}")
    found += [f"death: {each.error}: {each.words}" for each in death.failed if each.error != "UNAVAILABLE"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_replicas(asked.model, asked.replicas, Path(folder), "--max-streams=8", "--max-wait=2") as replicas,
        running_envoy(Path(folder), [each.ports for each in replicas]) as envoy,
    ):
        parts = asyncio.run(measure(envoy, replicas))
        envoy_s = sum(psutil.Process(envoy.process.pid).cpu_times()[:2])
    found = faults(parts)
    figures = {part.name: part.figures() for part in parts}
    print(f"failed calls {sum(len(part.failed) for part in parts[:2])}")
    gaps = [figures[name]["largest_gap_s"] for name in ("no event", "rolling restart")]
    print(f"largest gap {gaps[0]:g} s, with restarts {gaps[1]:g} s")
    print(f"recovery after a death {figures['death']['recovery_s']:g} s")
    audio_s = sum(answer.audio_s for part in parts for answer in part.answers)
    figures["envoy"] = {"cpu_ms_per_audio_s": round(1000 * envoy_s / audio_s, 2)}
    print(f"CPU time of Envoy {figures['envoy']['cpu_ms_per_audio_s']:g} ms for each second of audio")
    if asked.save:
        limits = {"gap_s": GAP_S, "error_s": ERROR_S, "recovery_s": RECOVERY_S}
        load = {"callers": CALLERS, "audio_ms": AUDIO_MS, "lead_ms": LEAD_MS, "replicas": asked.replicas}
        print(save("fleet", {"load": load, "limits": limits, "parts": figures}))
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
