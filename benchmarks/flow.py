"""Flow control on the real server: audio made and heard by kinds of callers, refusals of an overload and the delays
that they tell, a drain.

    python -m benchmarks.flow callers|overload|delays|refusals|simulated [--model models/random]

The first three start servers of their own, `refusals` a gateway alone. It writes
`benchmarks/results/flow-PART-DATE.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random
from typing import Any, get_args

import grpc
import numpy as np
import psutil
from tritonclient.grpc import service_pb2_grpc

from benchmarks import cheap_callers
from benchmarks.capacity.simulate import simulate
from benchmarks.costs.gpus import GPUS, floor
from benchmarks.load.caller import Answer
from benchmarks.load.plan import Load
from benchmarks.load.playback import Arrival, play
from benchmarks.load.summary import percentiles
from benchmarks.record import save
from misotts.config import FRAME_MS, SAMPLE_RATE
from misotts.engines.interface import Limits
from misotts.generate.flow import DEFAULTS, AdmissionRule, FlowOptions
from misotts.serve.local import RunningServer, free_ports, running_server
from misotts.serve.messages import encode
from misotts_client import AsyncClient, SpeechRequest
from misotts_client.errors import Unavailable
from misotts_client.transport import infer_request

TEXT = "A caller listens to this at the pace of playback."
AUDIO_MS = 80_000
STOPS_AFTER_S = 2.0
LOOKS_S = (STOPS_AFTER_S + 10, STOPS_AFTER_S + 20)
UTTERANCE_CHARS = 43
"""At the 70 ms a character of `Load`, 3 s of audio."""
FULL_S = 12.0
START_S = 60.0
OVERLOAD_S = 20.0
OVERLOADS: dict[str, tuple[int, int | None]] = {"3 times": (3, None), "10 times": (10, None), "3 times, batch": (3, 0)}
"""Load as a multiple of what is carried, and LEAD_MS."""
REFUSAL_FIGURES = ("calls", "refused", "refusal_ms", "gateway", "callers")
BURSTS_MS = {"3 s": (3_000, 3_000), "10 s": (10_000, 10_000), "20 s": (20_000, 20_000), "1 to 10 s": (1_000, 10_000)}
"""Least and most audio of the calls of a burst."""
BURST_CALLS = 100
LEARN_BURSTS, BURSTS = 2, 4
BURST_AFTER_S = 5.0
LATE_S = 0.02
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))


def made_s(server: RunningServer) -> float:
    """Return the seconds of audio generated since the server's start."""
    return server.metrics()["misotts_generate_frames_total"] * FRAME_MS / 1000


async def listen(url: str, seconds: float, stops: bool, lead_ms: int | None, small_window: bool) -> list[Arrival]:
    """Ask for `AUDIO_MS` of audio and take it for `seconds`; with `stops`, only for the first `STOPS_AFTER_S`."""
    arrivals: list[Arrival] = []
    request = SpeechRequest(TEXT, max_audio_ms=AUDIO_MS, lead_ms=lead_ms)
    if small_window:
        async with grpc.aio.insecure_channel(url, options=SMALL_WINDOW) as channel:
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([infer_request(request)]))
            await call.read()
            await asyncio.sleep(seconds)
        return arrivals
    began = time.monotonic()
    async with AsyncClient(url) as client, client.stream(request) as stream:
        async for chunk in stream:  # a read that is given up would cancel the stream
            arrivals.append(Arrival(time.monotonic() - began, len(chunk.audio)))
            if arrivals[-1].at_s > (STOPS_AFTER_S if stops else seconds):
                break
        await asyncio.sleep(max(began + seconds - time.monotonic(), 0))
    return arrivals


KINDS: dict[str, dict[str, Any]] = {
    "listens": dict(stops=False, lead_ms=None, small_window=False),
    "stops reading": dict(stops=True, lead_ms=None, small_window=False),
    "stops reading, window of 64 KB": dict(stops=True, lead_ms=None, small_window=True),
    "batch": dict(stops=False, lead_ms=0, small_window=False),
    "batch, stops reading, window of 64 KB": dict(stops=True, lead_ms=0, small_window=True),
}


def callers(model: Path) -> dict[str, Any]:
    """Return the audio made for and heard by each kind of caller, one caller at a time, the last during a drain."""
    found = {}
    with running_server(model, "--drain-seconds=120") as server:
        asyncio.run(listen(server.url, 2.0, **KINDS["batch"]))
        for name, kind in KINDS.items():
            time.sleep(2)
            found[name] = asyncio.run(_watch(server, kind))
            print(name, found[name], flush=True)
        drained = asyncio.run(_drained(server))
    return {"audio_s": AUDIO_MS / 1000, "stops_after_s": STOPS_AFTER_S, "kinds": found, "drain": drained}


async def _watch(server: RunningServer, kind: dict[str, Any]) -> dict[str, Any]:
    before, began = made_s(server), time.monotonic()
    caller = asyncio.create_task(listen(server.url, LOOKS_S[-1], **kind))
    made = {}
    for at in LOOKS_S:
        await asyncio.sleep(began + at - 0.1 - time.monotonic())
        made[f"made_after_{at:g}_s"] = round(await asyncio.to_thread(made_s, server) - before, 2)
    arrivals = await caller
    played = play(arrivals)
    taken = sum(each.samples for each in arrivals) / SAMPLE_RATE
    heard = min(LOOKS_S[-1] - arrivals[0].at_s, taken) if arrivals else 0.0
    return {**made, "taken_s": round(taken, 2), "heard_s": round(heard, 2), "underrun_s": round(played.underrun_s, 3)}


def overload(model: Path) -> dict[str, Any]:
    """Return the refusals and the continuity of the accepted in each of `OVERLOADS`; with `slots` not at 10 times."""
    found: dict[str, Any] = {}
    for rule in ("pace", "slots"):
        with running_server(model, f"--admission={rule}", "--max-wait=2", "--max-streams=16") as server:
            full = cheap_callers.run(
                server.url, Load(streams=16, seconds=FULL_S, chars=UTTERANCE_CHARS, lead_ms=None, seed=1)
            )
            carried = sum(answer.audio_s for answer in full.answers) / full.seconds
            found[rule] = {
                "carried_streams": round(carried, 2),
                "admissible": server.metrics()["misotts_generate_admissible"],
            }
            for name, (times, lead_ms) in OVERLOADS.items():
                if rule == "slots" and times == 10:
                    continue
                load = Load(rate=times * carried / 3.0, seconds=OVERLOAD_S, chars=UTTERANCE_CHARS, lead_ms=lead_ms)
                found[rule][name] = _judged(_gateway(server), server.url, load)
                print(rule, name, found[rule], flush=True)
    return found


def delays(model: Path) -> dict[str, Any]:
    """Return the delays that the refused of bursts are told, and those after which a call is accepted."""
    found = {}
    for name, span_ms in BURSTS_MS.items():
        with running_server(model, "--max-wait=2", "--max-streams=16") as server:
            found[name] = _bursts(server, span_ms)
            print(name, found[name], flush=True)
    return found


def _judged(gateway: int, url: str, load: Load) -> dict[str, Any]:
    """Return the figures of an overload, and how long the main threads of the process `gateway` and of the callers were
    ready to run and had to wait for a CPU."""
    before = _times(gateway)
    run = cheap_callers.run(url, load)
    cpu_s, waited_s = np.subtract(_times(gateway), before).tolist()
    return {
        **judge(run.answers),
        "gateway": {"cpu_s": round(cpu_s, 2), "waited_for_cpu_s": round(waited_s, 2)},
        "callers": {"cpu_s": round(run.cpu_s, 2), "lag_ms": _rounded([lag * 1000 for lag in run.lags_s], 1)},
    }


def _gateway(server: RunningServer) -> int:
    """Return the process id of a server's gateway."""
    children = psutil.Process(server.process.pid).children()
    return next(child.pid for child in children if "misotts_gateway" in child.cmdline())


def _times(pid: int) -> tuple[float, float]:
    """Return the seconds that the main thread of a process has run, and those that it was ready to and did not."""
    ran_ns, waited_ns, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(ran_ns) / 1e9, int(waited_ns) / 1e9


def judge(answers: list[Answer]) -> dict[str, Any]:
    """Return the figures of an overload."""
    refused = [answer for answer in answers if answer.error == "UNAVAILABLE"]
    served = [answer for answer in answers if answer.finish and not answer.error]
    took_ms = [(answer.ended_s - answer.sent_s) * 1000 for answer in refused]
    underruns = [play(answer.arrivals).underrun_s for answer in served]
    ttfa = [answer.ttfa_s for answer in served if answer.ttfa_s is not None]
    audible = [answer.audible_ttfa_s for answer in served if answer.audible_ttfa_s is not None]
    silences = [answer.leading_silence_s for answer in served if answer.leading_silence_s is not None]
    other = [f"{answer.error}: {answer.words}" for answer in answers if answer.error not in ("", "UNAVAILABLE")]
    return {
        "calls": len(answers),
        "refused": len(refused),
        "refusal_ms": _rounded(took_ms, 1),
        "served": len(served),
        "continuity": round(sum(each <= LATE_S for each in underruns) / max(len(served), 1), 3),
        "underrun_s": _rounded(underruns, 3),
        "ttfa_s": _rounded(ttfa, 3),
        "audible_ttfa_s": _rounded(audible, 3),
        "leading_silence_s": _rounded(silences, 3),
        "other_errors": other[:5],
    }


def _rounded(values: list[float], digits: int) -> dict[str, float | None]:
    found = percentiles(values)
    return {name: None if found[name] is None else round(found[name] or 0.0, digits) for name in ("p50", "p95", "max")}


def _bursts(server: RunningServer, span_ms: tuple[int, int]) -> list[dict[str, Any]]:
    """Return what the refused of `BURSTS` bursts of one kind were told, after others that show the server how long
    such utterances are."""
    found = []
    for seed in range(LEARN_BURSTS + BURSTS):
        time.sleep(BURST_AFTER_S)
        found.append(asyncio.run(_burst(server, span_ms, Random(seed))))
    return found[LEARN_BURSTS:]


async def _burst(server: RunningServer, span_ms: tuple[int, int], rng: Random) -> dict[str, Any]:
    """Send `BURST_CALLS` calls at once, each for an audio of random length, and from the first refusal on one more
    again and again, until it is accepted. Return the delay told in that refusal, the median of those in the others, and
    the time after which that call was accepted."""
    async with AsyncClient(server.url) as client:

        async def call(leaves: bool) -> float | None:
            try:
                async with client.stream(TEXT, max_audio_ms=rng.randint(*span_ms)) as stream:
                    async for _ in stream:
                        if leaves:
                            break
            except Unavailable as error:
                return error.retry_after_s or 0.0
            return None

        calls = [asyncio.create_task(call(leaves=False)) for _ in range(BURST_CALLS)]
        for task in asyncio.as_completed(calls):
            if (first_s := await task) is not None:
                break
        began = sent = time.monotonic()
        while await call(leaves=True) is not None:
            await asyncio.sleep(0.02)
            sent = time.monotonic()
        told = [delay for delay in await asyncio.gather(*calls) if delay is not None]
    median_s = statistics.median(told)
    return {"first_told_s": first_s, "told_s": round(median_s, 2), "free_after_s": round(sent - began, 2)}


async def _drained(server: RunningServer) -> dict[str, Any]:
    """Stop the server while a listener plays; return how much it heard."""
    arrivals: list[Arrival] = []
    finish, began = "", time.monotonic()
    async with AsyncClient(server.url) as client, client.stream(TEXT, max_audio_ms=AUDIO_MS) as stream:
        async for chunk in stream:
            arrivals.append(Arrival(time.monotonic() - began, len(chunk.audio)))
            finish = chunk.finish
            if server.process.returncode is None and len(arrivals) == 10:
                server.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(1)
                refused = ""
                try:
                    await client.speak(TEXT, max_audio_ms=800)
                except Unavailable as error:
                    refused = error.message
            played_s = sum(each.samples for each in arrivals) / SAMPLE_RATE
            await asyncio.sleep(max(arrivals[0].at_s + began + played_s - 1.0 - time.monotonic(), 0))
    status = await asyncio.to_thread(server.process.wait, 30)
    heard = sum(each.samples for each in arrivals) / SAMPLE_RATE
    return {"heard_s": heard, "of_s": AUDIO_MS / 1000, "finish": finish, "refused": refused, "exit_status": status}


def refusals(_: Path) -> dict[str, Any]:
    """Return the refusal times of a gateway alone: a stand-in for the launcher tells it that every place is taken. The
    calls are those of `OVERLOADS` where 16 streams are carried."""
    full = {"places": 0, "waits_s": [9.0]}
    seconds = {"slot_s": 1.0, **{name: getattr(DEFAULTS, name) for name in ("max_wait_s", "again_s", "lead_s")}}
    counts = {"slots": 16, "free_slots": 0, "waiting": 64, "submitted": 0}
    figures = {**counts, "listeners": full, "batch": full, **seconds}
    lines = encode({"command": "state", "ready": True}) + encode({"command": "admission", "figures": figures})
    grpc_port, http_port, ready_port = free_ports(3)
    found = {}
    with tempfile.TemporaryDirectory() as run, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{run}/control")
        listener.listen()
        listener.settimeout(START_S)
        flags = [f"--upstream=unix:{run}/grpc", f"--launcher={run}/control", "--host=127.0.0.1"]
        flags += [f"--grpc-port={grpc_port}", f"--http-port={http_port}", f"--ready-port={ready_port}"]
        gateway = subprocess.Popen([sys.executable, "-m", "misotts_gateway", *flags])
        launcher, ended = listener.accept()[0], threading.Event()

        def publish() -> None:
            while not ended.wait(0.1):
                launcher.sendall(lines)

        publishing = threading.Thread(target=publish)
        publishing.start()
        try:
            for name, (times, lead_ms) in OVERLOADS.items():
                load = Load(rate=times * 16 / 3.0, seconds=OVERLOAD_S, chars=UTTERANCE_CHARS, lead_ms=lead_ms)
                judged = _judged(gateway.pid, f"127.0.0.1:{grpc_port}", load)
                found[name] = {figure: judged[figure] for figure in REFUSAL_FIGURES}
                print(name, found[name], flush=True)
        finally:
            ended.set()
            publishing.join()
            gateway.kill()
            gateway.wait()
    return found


def simulated(_: Path) -> dict[str, Any]:
    """Return the same figures as `overload`, of an H100 that exists only as a cost table (the floor model, never
    measured), on which nothing else runs. Calls of the first 4 s, when the server learns its step times, do not count.
    """
    costs, limits = floor(GPUS["h100"], fp8=False).slower_device(1.5), Limits(max_streams=256, max_waiting=64)
    full = simulate(Load(streams=256, seconds=12.0, chars=UTTERANCE_CHARS, lead_ms=None), costs, limits)
    carried = sum(answer.audio_s for answer in full.answers) / full.seconds
    found: dict[str, Any] = {"costs": costs.label}
    for rule in get_args(AdmissionRule):
        found[rule] = {"carried_streams": round(carried, 1)}
        for name, (times, lead_ms) in OVERLOADS.items():
            load = Load(rate=times * carried / 3.0, seconds=9.0, chars=UTTERANCE_CHARS, lead_ms=lead_ms)
            run = simulate(load, costs, limits, options=FlowOptions(admission=rule))
            found[rule][name] = judge([each for each in run.answers if each.due_s > 4])
            print(rule, name, found[rule][name], flush=True)
    return found


PARTS = {"callers": callers, "overload": overload, "delays": delays, "refusals": refusals, "simulated": simulated}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    given = parser.parse_args()
    load_before = os.getloadavg()[0]
    found = PARTS[given.part](given.model)
    print(save(f"flow-{given.part}", {"load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)], **found}))


if __name__ == "__main__":
    main()
