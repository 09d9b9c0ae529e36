"""Measure this machine's cost table: every stage alone, then side by side, then in the server (see calibrate.py).

    python -m benchmarks.capacity.measure [--model models/demo]

This is for a CPU, where `misotts serve` gives every stage a process with half as many threads as there are cores; it
takes three minutes. `make gpu-suite` measures a GPU and writes a table of the same format.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.capacity.calibrate import calibrate, see
from benchmarks.costs.engines import make_engines
from benchmarks.costs.floors import Floors
from benchmarks.costs.grids import GenerateStage, LeastTimes, time_decode, time_watermark
from benchmarks.costs.side_by_side import Work, measure_speeds
from benchmarks.costs.table import CostTable, PromptCost, measured_parts
from benchmarks.costs.timing import measure
from benchmarks.load.measure import Target
from benchmarks.load.plan import TEXTS
from benchmarks.record import machine, save
from misotts.config import ModelConfig
from misotts.decode.decoder import Decoder
from misotts.engines.interface import Limits
from misotts.engines.kv_memory import BLOCK_SIZE, pool_blocks
from misotts.mimi import encode, load_mimi
from misotts.model.checkpoint import Checkpoint
from misotts.prompt.builder import Prompter
from misotts.prompt.voices import Voices
from misotts.serve.local import running_server
from misotts.watermark.watermarker import Watermarker, delay_frames
from misotts_client import AsyncClient
from misotts_client.errors import NotFound
from misotts_client.request import SpeechRequest

BATCHES = (1, 2, 4, 8, 16)
CONTEXTS = (64, 256, 768)
PREFILL_CHUNKS = (1, 16, 64, 256, 512)
FRAMES = (1, 2, 4, 8, 16)
REPEATS = 6
ROUNDS = 3
"""Rounds over each grid, of which the least times count: other work on the machine lasts longer than one place."""
PAUSE_S = 0.03
"""Pause between calls of decode and watermark, whose caches forget in a server too."""
ROUNDS_TOGETHER = 5
MESSAGES = 100
BURST = 16
TEXT_CHARS = range(20, 300, 20)


def measure_machine(folder: Path) -> tuple[CostTable, dict[str, Any]]:
    """Return the table of this machine for a model folder, and its difference from the stages' times alone."""
    alone = measure_alone(folder, REPEATS, ROUNDS_TOGETHER)
    with running_server(folder) as server:
        hop_ms, send_ms = measure_messages(server.url)
        alone = replace(alone, hop_ms=hop_ms, send_ms=send_ms)
        seen = see(Target.of(server))
    return calibrate(alone, seen, Limits())


def measure_alone(folder: Path, repeats: int, rounds: int) -> CostTable:
    """Measure every stage in a loop of its own, and side by side in `rounds`, without messages through Triton."""
    config = ModelConfig.load(folder)
    cores = len(os.sched_getaffinity(0))
    threads = max(cores // 2, 1)  # as misotts.serve.tritonserver sets them
    torch.set_num_threads(threads)
    stage, recorder, pausing = load_stage(folder), LeastTimes(repeats), LeastTimes(repeats, PAUSE_S)
    decoder, watermarker = Decoder(load_mimi(folder, config), max(BATCHES)), Watermarker(folder, max(BATCHES))
    for _ in range(ROUNDS):
        stage.time_prefill(recorder, PREFILL_CHUNKS)
        stage.time_steps(recorder, BATCHES, CONTEXTS)
        time_decode(pausing, decoder, config.audio_num_codebooks, BATCHES, FRAMES)
        time_watermark(pausing, watermarker, BATCHES, FRAMES)
    return CostTable(
        name=f"{machine()['cpu']}, {cores} cores, model {folder.name}, float32 on the CPU",
        source="measured",
        **measured_parts(recorder.rows() | pausing.rows()),
        prompt=measure_prompt(folder, config, repeats),
        hop_ms=0.0,
        send_ms=0.0,
        network_ms=0.0,
        speed_when_busy=measure_speeds(WORK, folder, threads, rounds),
        overlaps=False,
        hold_back_frames=delay_frames(folder),
        block_size=BLOCK_SIZE,
        kv_blocks=stage.num_blocks,
    )


def load_stage(folder: Path) -> GenerateStage:
    """Return the eager engines of a model folder, with the KV pool that the server would have."""
    config = ModelConfig.load(folder)
    blocks = pool_blocks(config, Limits().max_streams, 4, None, None)
    weights = Checkpoint(folder, config)
    engines = make_engines("torch", weights, config, blocks, max(BATCHES), "cpu", torch.float32)
    return GenerateStage(engines, Floors(config, "float32", 4, 4), blocks, "cpu", LeastTimes(1))


def measure_prompt(folder: Path, config: ModelConfig, repeats: int) -> PromptCost:
    """Measure the prompt stage's time for a text, and fit a line through the lengths of its prompts."""
    mimi = load_mimi(folder, config)
    prompter = Prompter(folder, config, partial(encode, mimi), Voices(None))
    corpus = " ".join(TEXTS.read_text(encoding="utf-8").split())
    requests = [SpeechRequest(corpus[at : at + chars], max_audio_ms=4000) for at, chars in enumerate(TEXT_CHARS)]
    lengths = [len(prompter.build(request).frames) for request in requests]
    slope, fixed = np.polyfit(list(TEXT_CHARS), lengths, 1)
    ms = measure(lambda: prompter.build(requests[2]), "cpu", repeats).ms
    return PromptCost(ms, round(float(slope), 4), max(round(float(fixed)), 1))


def measure_messages(url: str) -> tuple[float, float]:
    """Return `hop_ms` and `send_ms`: half a round trip to the prompt stage, which refuses an unknown voice, with
    nothing else under way, and with the next requests waiting already."""
    return asyncio.run(_measure_messages(url))


async def _measure_messages(url: str) -> tuple[float, float]:
    async with AsyncClient(url) as client:

        async def refused() -> None:
            with suppress(NotFound):
                await client.speak("Hello.", voice="nobody")

        async def round_trips_ms(at_once: int) -> float:
            times = []
            for _ in range(MESSAGES):
                began = time.perf_counter()
                await asyncio.gather(*[refused() for _ in range(at_once)])
                times.append((time.perf_counter() - began) * 1000)
            return statistics.median(times)

        await round_trips_ms(1)
        lone, burst = await round_trips_ms(1), await round_trips_ms(BURST)
        return round(lone / 2, 4), round(burst / BURST / 2, 4)


def _generate_work(folder: Path) -> Iterator[None]:
    stage = load_stage(folder)
    step = stage.step(4, 64)
    while True:
        stage.engines.launch(step)
        yield


def _decode_work(folder: Path) -> Iterator[None]:
    config = ModelConfig.load(folder)
    decoder, recorder = Decoder(load_mimi(folder, config), 4), LeastTimes(1)
    while True:
        time_decode(recorder, decoder, config.audio_num_codebooks, (4,), (4,))
        yield


def _watermark_work(folder: Path) -> Iterator[None]:
    watermarker, recorder = Watermarker(folder, 4), LeastTimes(1)
    while True:
        time_watermark(recorder, watermarker, (4,), (4,))
        yield


WORK: dict[str, Work] = {"generate": _generate_work, "decode": _decode_work, "watermark": _watermark_work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    table, in_server = measure_machine(parser.parse_args().model)
    print(save("costs", {**table.to_json(), "in_server": in_server}))


if __name__ == "__main__":
    main()
