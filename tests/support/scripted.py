"""Engines that say what a test wrote for them, and a receiver that keeps what it gets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from misotts.config import MASKED, ModelConfig, TransformerConfig
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch, Limits, Sampling
from misotts.engines.two_part import TwoPart
from misotts.generate.delivery import Chunk
from misotts.generate.loop import Generator
from misotts.generate.utterance import Utterance
from misotts.order import Order
from misotts_client.errors import MisoError

CODEBOOKS = 4
WIDTH = 8
SIZES = TransformerConfig(num_layers=1, embed_dim=WIDTH, num_heads=1, num_kv_heads=1, intermediate_dim=8)
CONFIG = ModelConfig(
    text_vocab_size=10,
    audio_vocab_size=20,
    audio_num_codebooks=CODEBOOKS,
    backbone=SIZES,
    depth=SIZES,
    max_seq_len=64,
)

Script = Callable[[int, int], list[int]]
"""(seed, frame number) → the frame's codes."""


class ScriptedBackbone:
    """Its hidden state tells the depth engine which sequence it is and how many frames that has had."""

    block_size = 4

    def __init__(self, num_blocks: int = 200) -> None:
        self.num_blocks = num_blocks
        self.batches: list[Batch] = []

    def forward(self, batch: Batch) -> torch.Tensor:
        self.batches.append(batch)
        # Every position of the batch lies in a block of its own sequence, and not in the scratch block.
        for length, start, blocks in zip(batch.lengths, batch.starts, batch.blocks, strict=True):
            held = blocks[: -(-(start + length) // self.block_size)]
            assert held.all()
            assert len(set(held)) == len(held)
        ends = torch.from_numpy(batch.lengths.cumsum() - 1).long()
        return batch.inputs[ends]


class ScriptedDepth:
    """Draws `script(seed, frame)`; the input embedding carries both from step to step."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        codes = [self.script(int(row[0]), int(row[1])) for row in hidden]
        following = hidden.clone()
        following[:, 1] += 1
        return torch.tensor(codes), following


def numbered(seed: int, frame: int) -> list[int]:
    """A script whose codes say which frame they are, as long as seed and frame are below 16."""
    return [1 + number % 16 for number in (seed, frame, seed + frame, seed * frame)]


class SeedEmbedding(Embedding):
    """A prompt embeds to (its first token, frame 0), and a frame of `numbered` that is read again to (seed, the next
    frame)."""

    def __init__(self) -> None:
        self.text_table = torch.zeros(1, WIDTH)

    def prompt(self, frames: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(frames), WIDTH)
        is_text = frames[:, -1] != MASKED
        out[:, 0] = torch.where(is_text, frames[:, -1], frames[:, 0] - 1)
        out[:, 1] = torch.where(is_text, 0, frames[:, 1])
        return out


class Inbox:
    """Keeps an utterance's chunks; acknowledges them at once unless told not to."""

    def __init__(self, generator: Generator, acknowledges: bool = True) -> None:
        self.generator, self.acknowledges = generator, acknowledges
        self.chunks: list[Chunk] = []
        self.error: MisoError | None = None

    def chunk(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        if self.acknowledges:
            self.generator.acknowledge(chunk.stream, chunk.index)

    def refuse(self, error: MisoError) -> None:
        self.error = error

    @property
    def codes(self) -> list[list[int]]:
        return np.concatenate([chunk.codes for chunk in self.chunks]).tolist()

    @property
    def finish(self) -> str:
        return self.chunks[-1].finish


def make_generator(script: Script, limits: Limits | None = None, num_blocks: int = 200) -> Generator:
    """A generator that is not started: call `step` and `deliver`."""
    limits = limits or Limits(max_streams=4, max_waiting=8, step_positions=16)
    parts = SeedEmbedding(), ScriptedBackbone(num_blocks), ScriptedDepth(script)
    return Generator(CONFIG, TwoPart(CONFIG, *parts, limits.max_streams), limits)


def utterance(seed: int, positions: int = 3, max_frames: int = 5, **fields: object) -> Utterance:
    """Its prompt repeats its seed, which is how the scripted engines know it."""
    prompt = np.full((positions, CODEBOOKS + 1), MASKED, np.int32)
    prompt[:, -1] = seed
    return Utterance(Order(prompt, max_frames, seed, **fields))  # type: ignore[arg-type]
