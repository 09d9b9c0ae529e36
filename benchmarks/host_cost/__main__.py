"""The host's cost of a stream: CPU time of every process of the real server while an engine that costs nothing speaks.

    python -m benchmarks.host_cost [--streams 8 --streams 64] [--utterance-s 60 --utterance-s 5] [--functions]

`--utterance-s 60` (the default) measures streams at their lead over playback, `--utterance-s 5` many short utterances,
each generated at once. Callers hear one utterance after the other at the pace of playback, through the gateway. With
`--stand-ins generate,decode,network` the watermark costs what it costs the host of a GPU that runs its network. The
watermark has the published network's rate and delay.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.host_cost import STEP_MS, profiles
from benchmarks.host_cost.callers import Heard, hear
from benchmarks.host_cost.serve import VARIABLE
from benchmarks.record import save
from benchmarks.usage import process_name, usage
from demo.model import make_silentcipher
from misotts.serve.local import RunningServer, running_server

SILENTCIPHER = "silentcipher"
CHUNK_STAGES = ("decode", "watermark")
SERVE = "benchmarks.host_cost.serve"
START_S = 600.0
IDLE_S = 4.0
FILL_S = 14.0
"""Time from the first call until the streams are as far ahead as their leads allow."""
MEASURED_S = 15.0


def measure(server: RunningServer, streams: int, utterance_s: float, functions: bool) -> dict[str, Any]:
    """Return the CPU time of each process per stream-second, in ms, and what the callers heard."""
    ours, theirs = multiprocessing.Pipe()
    began = time.monotonic() + FILL_S
    arguments = (server.url, streams, utterance_s, began, MEASURED_S, theirs)
    callers = multiprocessing.get_context("spawn").Process(target=hear, args=arguments)
    callers.start()
    theirs.close()  # so that the end of the callers ends the wait for what they heard
    time.sleep(began - time.monotonic())
    before, start, told = _cpu_s(server), time.monotonic(), server.metrics()
    with tempfile.TemporaryDirectory() as folder:
        samplers = profiles.start(_python_processes(server), MEASURED_S - 1, Path(folder)) if functions else []
        time.sleep(began + MEASURED_S - time.monotonic())
        after, seconds = _cpu_s(server), time.monotonic() - start
        spent = {name: value - told[name] for name, value in server.metrics().items() if name in told}
        for sampler in samplers:
            sampler.wait(60)
        found = {"functions": profiles.read(list(_python_processes(server)), Path(folder))} if functions else {}
    heard: Heard = ours.recv()
    callers.join()
    chunks = spent["misotts_watermark_chunks_total"]
    ms = {name: round((after[name] - cpu_s) * 1000 / (streams * seconds), 3) for name, cpu_s in before.items()}
    return {
        "streams": streams,
        "utterance_s": utterance_s,
        "cpu_ms_per_stream_s": {**ms, "all": round(sum(ms.values()), 3)},
        "chunks_per_stream_s": round(chunks / (streams * seconds), 3),
        "busy_ms_per_chunk": ms_per_chunk(spent, "busy"),
        "sending_ms_per_chunk": ms_per_chunk(spent, "sending"),
        "messages_per_stream_s": round(heard.messages / (streams * MEASURED_S), 3),
        "audio_s_per_stream_s": round(heard.audio_s / (streams * MEASURED_S), 3),
        "first_audio_ms": round(statistics.median(heard.first_audio_s) * 1000, 1) if heard.first_audio_s else None,
        "silence_s": round(max(heard.late_s, default=0.0), 3),
        "errors": sorted(set(heard.errors)),
        **found,
    }


def ms_per_chunk(spent: Mapping[str, float], doing: str) -> dict[str, float]:
    """Return for decode and watermark the time of one of their threads for a chunk: `busy` is the work, `sending` the
    message to the next process. `spent`: growth of the server's metrics."""
    return {
        stage: round(spent[f"misotts_{stage}_{doing}_seconds_total"] * 1000 / spent[f"misotts_{stage}_chunks_total"], 3)
        for stage in CHUNK_STAGES
    }


def idle_ms(server: RunningServer) -> dict[str, float]:
    """Return the CPU time of each process in ms for a second without streams."""
    before = _cpu_s(server)
    time.sleep(IDLE_S)
    return {name: round((cpu_s - before[name]) * 1000 / IDLE_S, 1) for name, cpu_s in _cpu_s(server).items()}


def _cpu_s(server: RunningServer) -> dict[str, float]:
    return {each.name: each.cpu_s for each in usage(server)}


def _python_processes(server: RunningServer) -> dict[str, int]:
    launcher = psutil.Process(server.process.pid)
    named = {process_name(each): each.pid for each in launcher.children(recursive=True)}
    return {name: pid for name, pid in named.items() if name != "tritonserver"}


def _model(folder: Path, copy: Path) -> Path:
    """Make a copy of a model folder, by links, with a watermark of the published rate and delay; return it."""
    for each in folder.iterdir():
        if each.name != SILENTCIPHER:
            (copy / each.name).symlink_to(each.absolute())
    make_silentcipher(copy / SILENTCIPHER)
    return copy


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    parser.add_argument("--streams", type=int, action="append", help="number of callers; may be repeated")
    parser.add_argument("--utterance-s", type=float, action="append", help="length of an utterance; may be repeated")
    parser.add_argument("--stand-ins", default="generate,decode,watermark", help="stages that cost nothing")
    parser.add_argument("--step-ms", type=float, default=13.0, help="time of a step of the engine's stand-in")
    parser.add_argument("--functions", action="store_true", help="also sample the functions, which costs CPU time")
    parser.add_argument("--name", default="host-cost", help="begins the name of the file of results")
    options = parser.parse_args(arguments)
    os.environ |= {VARIABLE: options.stand_ins, STEP_MS: str(options.step_ms)}
    streams = options.streams or [8, 64]
    serve = [f"--max-streams={max(streams)}", f"--streams-per-address={max(streams) + 8}", "--lead-seconds=10"]
    figures: dict[str, Any] = {"load_average": round(os.getloadavg()[0], 1), "stand_ins": options.stand_ins}
    figures["step_ms"] = options.step_ms
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(_model(options.model, Path(folder)), *serve, start_s=START_S, module=SERVE) as server,
    ):
        time.sleep(2)
        figures["idle_ms_per_s"] = idle_ms(server)
        print(figures, flush=True)
        figures["loads"] = []
        for utterance_s in options.utterance_s or [60.0]:
            for count in streams:
                figures["loads"].append(measure(server, count, utterance_s, options.functions))
                print({name: value for name, value in figures["loads"][-1].items() if name != "functions"}, flush=True)
    print(save(options.name, figures))


if __name__ == "__main__":
    main()
