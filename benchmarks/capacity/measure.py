"""Measure this machine's cost table: every stage alone, then side by side, then in the server (see calibrate.py).

    python -m benchmarks.capacity.measure [--model models/random]

This is for a CPU, where `misotts serve` gives every stage a process with half as many threads as there are cores; it
takes three minutes. `make gpu-suite` measures a GPU and writes a table of the same format.
"""

from __future__ import annotations

import argparse
import asyncio
import math
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
from benchmarks.costs.codec import time_decode, time_watermark
from benchmarks.costs.generate import GenerateStage
from benchmarks.costs.section import Section
from benchmarks.costs.side_by_side import Work, measure_speeds
from benchmarks.costs.sizes import FULL, Sizes
from benchmarks.costs.table import CostTable, PromptCost, measured_parts
from benchmarks.costs.timing import measure
from benchmarks.load.measure import Target
from benchmarks.load.plan import TEXTS
from benchmarks.record import machine, save
from misotts.config import FRAME_SAMPLES, ModelConfig
from misotts.decode.decoder import Decoder
from misotts.engines.interface import Limits
from misotts.engines.kv_memory import BLOCK_SIZE, pool_blocks
from misotts.mimi import encode, load_mimi
from misotts.prompt.builder import Prompter
from misotts.prompt.voices import Voices
from misotts.serve.local import running_server
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker, hold_back
from misotts_client import AsyncClient
from misotts_client.errors import NotFound
from misotts_client.request import SpeechRequest

SIZES = replace(
    FULL,
    batches=(1, 2, 4, 8, 16),
    contexts=(64, 256, 768),
    prefill_chunks=(1, 16, 64, 256, 512),
    codec_rows=(1, 2, 4, 8, 16),
    codec_frames=(1, 2, 4, 8, 16),
    repeats=6,
    seconds_per_row=math.inf,
)
ROUNDS = 3
"""Rounds over each grid; the least times count, because other work on the machine lasts longer than one place."""
PAUSE_S = 0.03
"""Pause between calls of decode and watermark, so that caches are as cold as in a server."""
ROUNDS_TOGETHER = 5
MESSAGES = 100
BURST = 16
TEXT_CHARS = range(20, 300, 20)


def measure_machine(folder: Path) -> tuple[CostTable, dict[str, Any]]:
    """Return the table of this machine for a model folder, and its difference from the stages' times alone."""
    alone = measure_alone(folder, SIZES, ROUNDS_TOGETHER)
    with running_server(folder) as server:
        hop_ms, send_ms = measure_messages(server.url)
        alone = replace(alone, hop_ms=hop_ms, send_ms=send_ms)
        seen = see(Target.of(server))
    return calibrate(alone, seen, Limits())


def measure_alone(folder: Path, sizes: Sizes, rounds: int) -> CostTable:
    """Measure every stage in a loop of its own, and side by side in `rounds`, without messages through Triton."""
    config, cores = ModelConfig.load(folder), len(os.sched_getaffinity(0))
    threads = max(cores // 2, 1)  # as misotts.serve.tritonserver sets them
    torch.set_num_threads(threads)
    sizes = sizes_for(config, sizes)
    tables: dict[str, list[dict[str, Any]]] = {}
    stage = GenerateStage(Section.collecting(sizes, tables), "torch")
    decoder = Decoder(load_mimi(folder, config), max(sizes.codec_rows))
    watermarker = Watermarker(folder, max(sizes.codec_rows))
    pausing = Section.collecting(sizes, tables, pause_s=PAUSE_S)
    for _ in range(ROUNDS):
        stage.time_prefill()
        stage.time_steps()
        time_decode(pausing, decoder)
        time_watermark(pausing, watermarker)
    return CostTable(
        name=f"{machine()['cpu']}, {cores} cores, model {folder.name}, float32 on the CPU",
        source="measured",
        **measured_parts(tables),
        prompt=measure_prompt(folder, config, sizes.repeats),
        hop_ms=0.0,
        send_ms=0.0,
        network_ms=0.0,
        speed_when_busy=measure_speeds(WORK, folder, threads, rounds),
        overlaps=False,
        hold_back=hold_back(folder),
        block_size=BLOCK_SIZE,
        kv_blocks=stage.blocks_that_fit,
    )


def sizes_for(config: ModelConfig, sizes: Sizes) -> Sizes:
    """Return the sizes for a model's shape, with the KV pool that the server would have."""
    blocks = pool_blocks(config, Limits().max_streams, torch.float32.itemsize, None, None)
    return replace(sizes, config=config, pool_positions=(blocks - 1) * BLOCK_SIZE)


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
                await client.speak("Hello.", voice="unknown")

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
    stage = GenerateStage(Section.collecting(sizes_for(ModelConfig.load(folder), SIZES), {}), "torch")
    step = stage.step(4, 64)
    while True:
        stage.engines.launch(step)
        yield


def _decode_work(folder: Path) -> Iterator[None]:
    config = ModelConfig.load(folder)
    decoder, codes = Decoder(load_mimi(folder, config), 4), np.ones((4, config.audio_num_codebooks), np.int32)
    while True:
        decoder.decode([Piece(slot, False, codes) for slot in range(4)])
        yield


def _watermark_work(folder: Path) -> Iterator[None]:
    watermarker = Watermarker(folder, 4)
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * FRAME_SAMPLES).astype(np.float32)
    while True:
        watermarker.mark([Piece(slot, False, noise) for slot in range(4)])
        yield


WORK: dict[str, Work] = {"generate": _generate_work, "decode": _decode_work, "watermark": _watermark_work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    table, in_server = measure_machine(parser.parse_args().model)
    print(save("costs", {**table.to_json(), "in_server": in_server}))


if __name__ == "__main__":
    main()
