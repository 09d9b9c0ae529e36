"""Measure this machine's cost table: every stage alone, then side by side, then in the server (see calibrate.py).

    python -m benchmarks.capacity.measure [--model models/demo]

For a CPU, where `misotts serve` gives every stage a process with half as many threads as there are cores; takes three
minutes. Times are medians, those of grids the least of three. GPUs are measured by the GPU suite, which writes tables
of the same format.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.capacity.calibrate import calibrate, see
from benchmarks.costs.side_by_side import Work, measure_speeds
from benchmarks.costs.table import CostTable, Grid, Line, PromptCost
from benchmarks.listener import Listener
from benchmarks.load.measure import Target
from benchmarks.load.plan import TEXTS
from benchmarks.record import machine, save
from misotts.config import ModelConfig
from misotts.decode.decoder import Decoder
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch, Limits
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.generate.load import load_generator
from misotts.generate.utterance import Utterance
from misotts.mimi import encode, load_mimi
from misotts.model.checkpoint import Checkpoint
from misotts.order import Order
from misotts.prompt.builder import Prompter
from misotts.prompt.voices import Voices
from misotts.serve.local import running_server
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker, delay_frames
from misotts_client import AsyncClient
from misotts_client.errors import MisoError, NotFound
from misotts_client.request import SpeechRequest

BATCHES = (1, 2, 4, 8, 16)
CONTEXTS = (64, 256, 768)
PIECES = (1, 16, 64, 256, 512)
FRAMES = (1, 2, 4, 8, 16)
REPEATS = 6
ROUNDS = 3
WARM_UP = 2
PAUSE_S = 0.03
"""Between calls of decode and watermark, which in a server have time to forget their caches, too."""
ROUNDS_TOGETHER = 5
HOPS = 100
BURST = 16
TEXT_CHARS = range(20, 300, 20)


def measure(folder: Path) -> tuple[CostTable, dict[str, Any]]:
    """The table of this machine for a model folder, and how it differs from the stages' times alone."""
    alone = measure_alone(folder, REPEATS, ROUNDS_TOGETHER)
    with running_server(folder) as server:
        hop_ms, send_ms = measure_messages(server.url)
        alone = replace(alone, hop_ms=hop_ms, send_ms=send_ms)
        seen = see(Target.of(server))
    return calibrate(alone, seen, Limits())


def measure_alone(folder: Path, repeats: int, rounds: int) -> CostTable:
    """Every stage in a loop of its own, `repeats` for each time, and side by side in `rounds`; no message through
    Triton."""
    config = ModelConfig.load(folder)
    cores = len(os.sched_getaffinity(0))
    threads = max(cores // 2, 1)  # as misotts.serve.tritonserver sets them
    torch.set_num_threads(threads)
    steps = Steps(folder, config)
    return CostTable(
        name=f"{machine()['cpu']}, {cores} cores, model {folder.name}, float32 on the CPU",
        source="measured",
        step=_grid(BATCHES, CONTEXTS, lambda batch, context: steps.time(batch, context, repeats)),
        prefill=measure_prefill(folder, config, repeats),
        decode=_grid(BATCHES, FRAMES, DecodeCalls(folder, config, repeats)),
        watermark=_grid(BATCHES, FRAMES, WatermarkCalls(folder, repeats)),
        prompt=measure_prompt(folder, config, repeats),
        hop_ms=0.0,
        send_ms=0.0,
        network_ms=0.0,
        speed_when_busy=measure_speeds(WORK, folder, threads, rounds),
        overlaps=False,
        hold_back_frames=delay_frames(folder),
        block_size=BLOCK_SIZE,
        kv_blocks=steps.generator.scheduler.pool.capacity + 1,
    )


def _grid(rows: Sequence[int], columns: Sequence[int], ms: Callable[[int, int], float]) -> Grid:
    """The least of each cell's `ROUNDS` times, taken in rounds over the whole grid: what else the machine does only
    adds to a time, and lasts longer than a cell takes."""
    rounds = [[[ms(row, column) for column in columns] for row in rows] for _ in range(ROUNDS)]
    return Grid(list(rows), list(columns), np.min(rounds, axis=0).tolist())


def median_ms(action: Callable[[], object], repeats: int, pause_s: float = 0.0) -> float:
    times = []
    for number in range(WARM_UP + repeats):
        time.sleep(pause_s)
        began = time.perf_counter()
        action()
        if number >= WARM_UP:
            times.append(time.perf_counter() - began)
    return round(statistics.median(times) * 1000, 4)


class Steps:
    """Steps of a whole generate stage that is not started."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self._config = config
        self.generator = load_generator(folder, config, Limits(max_streams=max(BATCHES), step_positions=1 << 20))

    def time(self, batch: int, context: int, repeats: int) -> float:
        """Milliseconds of a step of `batch` utterances that have about `context` positions cached."""
        utterances = self.begin(batch, context, WARM_UP + repeats + 2)
        self.step()  # reads the prompts
        ms = median_ms(self.step, repeats)
        for utterance in utterances:
            self.generator.abandon(utterance.stream)
        while self.generator.streams:
            self.step()
            time.sleep(0.002)
        return ms

    def begin(self, batch: int, context: int, frames: int) -> list[Utterance]:
        dice = np.random.default_rng([batch, context])
        utterances = []
        for seed in range(batch):
            prompt = np.full((context, self._config.frame_columns), -1, np.int32)
            prompt[:, -1] = dice.integers(0, self._config.text_vocab_size, context)
            utterances.append(Utterance(Order(prompt, frames, seed)))
            self.generator.submit(utterances[-1], _PatientListener(self.generator))
        return utterances

    def step(self) -> None:
        self.generator.step()
        self.generator.hand_on()


class _PatientListener(Listener):
    def refuse(self, error: MisoError) -> None:
        """Those who were abandoned."""


def measure_prefill(folder: Path, config: ModelConfig, repeats: int) -> Line:
    """Backbone passes over one piece of a prompt, its embedding among them."""
    weights = Checkpoint(folder, config)
    embedding = Embedding(weights, config, "cpu", torch.float32)
    backbone = TorchBackbone(weights, config, 1 + max(PIECES) // BLOCK_SIZE + 1, BLOCK_SIZE)
    blocks = np.arange(1, backbone.num_blocks, dtype=np.int32)[None]
    text = torch.full((max(PIECES), config.frame_columns), -1)
    text[:, -1] = 5

    def read(positions: int) -> None:
        inputs = embedding.prompt(text[:positions])
        backbone.forward(Batch(inputs, np.array([positions], np.int32), np.zeros(1, np.int32), blocks))

    return Line(list(PIECES), [median_ms(partial(read, positions), repeats) for positions in PIECES])


class DecodeCalls:
    """Calls of the decode stage."""

    def __init__(self, folder: Path, config: ModelConfig, repeats: int, pause_s: float = PAUSE_S) -> None:
        self._decoder = Decoder(load_mimi(folder, config), max(BATCHES))
        self._codebooks, self._repeats, self._pause_s = config.audio_num_codebooks, repeats, pause_s

    def __call__(self, rows: int, frames: int) -> float:
        codes = np.ones((frames, self._codebooks), np.int32)
        pieces = [Piece(slot, False, codes) for slot in range(rows)]
        return median_ms(lambda: self._decoder.decode(pieces), self._repeats, self._pause_s)


class WatermarkCalls:
    """Calls of the watermark stage, in the middle of streams."""

    def __init__(self, folder: Path, repeats: int, pause_s: float = PAUSE_S) -> None:
        self._watermarker = Watermarker(folder, max(BATCHES))
        self._repeats, self._pause_s = repeats, pause_s

    def __call__(self, rows: int, frames: int) -> float:
        audio = np.random.default_rng(0).normal(0, 0.1, 1920 * frames).astype(np.float32)
        pieces = [Piece(slot, False, audio, False) for slot in range(rows)]
        return median_ms(lambda: self._watermarker.mark(pieces), self._repeats, self._pause_s)


def measure_prompt(folder: Path, config: ModelConfig, repeats: int) -> PromptCost:
    """The prompt stage's time for a text, and a line through the lengths of its prompts."""
    mimi = load_mimi(folder, config)
    prompter = Prompter(folder, config, partial(encode, mimi), Voices(None))
    corpus = " ".join(TEXTS.read_text(encoding="utf-8").split())
    requests = [SpeechRequest(corpus[at : at + chars], max_audio_ms=4000) for at, chars in enumerate(TEXT_CHARS)]
    lengths = [len(prompter.build(request).frames) for request in requests]
    slope, fixed = np.polyfit(list(TEXT_CHARS), lengths, 1)
    ms = median_ms(lambda: prompter.build(requests[2]), repeats)
    return PromptCost(ms, round(float(slope), 4), max(round(float(fixed)), 1))


def measure_messages(url: str) -> tuple[float, float]:
    """`hop_ms` and `send_ms`: half a round trip to the prompt stage, which refuses a voice that it does not have, when
    nothing else is under way and when the next requests wait already."""
    return asyncio.run(_measure_messages(url))


async def _measure_messages(url: str) -> tuple[float, float]:
    async with AsyncClient(url) as client:

        async def refused() -> None:
            with suppress(NotFound):
                await client.speak("Hello.", voice="nobody")

        async def round_trips_ms(at_once: int) -> float:
            times = []
            for _ in range(HOPS):
                began = time.perf_counter()
                await asyncio.gather(*[refused() for _ in range(at_once)])
                times.append((time.perf_counter() - began) * 1000)
            return statistics.median(times)

        await round_trips_ms(1)
        lone, burst = await round_trips_ms(1), await round_trips_ms(BURST)
        return round(lone / 2, 4), round(burst / BURST / 2, 4)


def _generate_work(folder: Path) -> Iterator[None]:
    steps = Steps(folder, ModelConfig.load(folder))
    while True:
        steps.begin(4, 64, 200)
        while steps.generator.streams:
            steps.step()
            yield


def _decode_work(folder: Path) -> Iterator[None]:
    calls = DecodeCalls(folder, ModelConfig.load(folder), repeats=1, pause_s=0)
    while True:
        calls(4, 4)
        yield


def _watermark_work(folder: Path) -> Iterator[None]:
    calls = WatermarkCalls(folder, repeats=1, pause_s=0)
    while True:
        calls(4, 4)
        yield


WORK: dict[str, Work] = {
    "generate": _generate_work,
    "decode": _decode_work,
    "watermark": _watermark_work,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    table, in_server = measure(parser.parse_args().model)
    print(save("costs", {**table.to_json(), "in_server": in_server}))


if __name__ == "__main__":
    main()
