"""An engine with codes that a test writes, a generate stage around it, and a receiver that keeps its chunks."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from misotts.config import MASKED, MimiConfig, ModelConfig, Quantizer, TransformerConfig
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch, Limits, Sampling, Step
from misotts.engines.two_part import TwoPart
from misotts.generate.blocks import BlockPool
from misotts.generate.conversations import SESSIONS, SessionOptions
from misotts.generate.core import Core
from misotts.generate.flow import DEFAULTS, FlowOptions
from misotts.generate.loop import Generator
from misotts.generate.stream import Chunk, deliver
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
    mimi=MimiConfig(quantizer=Quantizer(bins=17)),
)

Script = Callable[[int, int], list[int]]
"""(seed, frame number) → the frame's codes."""


class ScriptedBackbone:
    """Its hidden state tells the depth engine which sequence it is and how many frames that has had."""

    block_size = 4

    def __init__(self, num_blocks: int = 200) -> None:
        self.num_blocks = num_blocks

    def forward(self, batch: Batch) -> torch.Tensor:
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
    """A script with codes that identify their frame, as long as seed and frame are below 16."""
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
    """Keeps a stream's chunks; acknowledges them at once if `acknowledges`."""

    def __init__(self, stage: Core | Generator, acknowledges: bool = True) -> None:
        self.stage, self.acknowledges = stage, acknowledges
        self.chunks: list[Chunk] = []
        self.error: MisoError | None = None

    def chunk(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        if self.acknowledges:
            self.stage.acknowledge(chunk.stream, chunk.index)

    def refuse(self, error: MisoError) -> None:
        self.error = error

    @property
    def codes(self) -> list[list[int]]:
        codes: list[list[int]] = np.concatenate([chunk.codes for chunk in self.chunks]).tolist()
        return codes

    @property
    def finish(self) -> str:
        return self.chunks[-1].finish if self.chunks else ""


LIMITS = Limits(max_streams=4, max_waiting=8, step_positions=16)


def scripted_engine(script: Script, limits: Limits = LIMITS, num_blocks: int = 200) -> TwoPart:
    parts = SeedEmbedding(), ScriptedBackbone(num_blocks), ScriptedDepth(script)
    return TwoPart(CONFIG, *parts, limits.max_streams)


class ScriptedStage:
    """The generate stage without a thread: a core on a scripted engine, and a clock that the test sets."""

    def __init__(
        self,
        script: Script,
        limits: Limits = LIMITS,
        num_blocks: int = 200,
        retire_every_s: float = 0.0,
        options: FlowOptions = DEFAULTS,
        max_positions: int = CONFIG.max_seq_len,
        sessions: SessionOptions = SESSIONS,
    ) -> None:
        self._engine = scripted_engine(script, limits, num_blocks)
        pool = BlockPool(num_blocks, self._engine.block_size)
        self.core = Core(
            pool,
            limits,
            max_positions,
            deliver,
            options=options,
            retire_every_s=retire_every_s,
            sessions=sessions,
        )
        self.steps: list[Step] = []
        self.now = 0.0
        self._codes: deque[npt.NDArray[np.int32]] = deque()

    def submit(self, spoken: Utterance, acknowledges: bool = True) -> Inbox:
        inbox = Inbox(self.core, acknowledges)
        self.core.submit(spoken, inbox, self.now)
        return inbox

    def step(self, ready: bool = True) -> None:
        """One pass of the loop. `ready`: the engine is done with its step before the next is planned."""
        step = self.core.plan(self.now)
        if step is not None:
            self.steps.append(step)
            self._codes.append(self._engine.step(step).int().numpy())
        while self._codes and self.core.due(ready):
            self.core.collect(self._codes.popleft(), self.now)


def utterance(seed: int, positions: int = 3, max_frames: int = 5, **fields: Any) -> Utterance:
    """Its prompt repeats its seed, by which the scripted engine recognises it."""
    prompt = np.full((positions, CODEBOOKS + 1), MASKED, np.int32)
    prompt[:, -1] = seed
    return Utterance(Order(prompt, max_frames, seed, **fields))
