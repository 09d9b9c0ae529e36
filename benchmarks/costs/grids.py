"""Times of the stages by batch and length, on a CPU or a GPU: the grids of a cost table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.costs.engines import Engines
from benchmarks.costs.floors import Floors, Work
from benchmarks.costs.timing import measure, synchronize
from misotts.config import FRAME_SAMPLES, MASKED
from misotts.decode.decoder import Decoder
from misotts.engines.interface import Batch, Step
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.two_part import sampling_of
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker

FILL_BLOCKS = 64
"""Blocks of one pass that fills the pool."""


class Recorder(Protocol):
    """Takes the time of actions and keeps it in the rows of tables."""

    def hurry(self) -> None:
        """Raise an error if there is no time left."""

    def row(self, table: str, **row: Any) -> None: ...

    def time(
        self, table: str, action: Callable[[], object], work: Work | None = None, calls: int = 1, **where: int
    ) -> None:
        """Add a row with the time of `action` and the floor of its `work`; `where`: its place in the grid."""


@dataclass
class LeastTimes:
    """Keeps the least of the times that were taken for a place: other work on the machine only adds to a time."""

    repeats: int
    pause_s: float = 0.0
    """Pause before every call."""
    tables: dict[str, dict[tuple[int, ...], dict[str, Any]]] = field(default_factory=dict)

    def hurry(self) -> None:
        """There is no limit."""

    def row(self, table: str, **row: Any) -> None:
        raise ValueError(f"{table} cannot be measured whole: {row}")

    def time(
        self, table: str, action: Callable[[], object], work: Work | None = None, calls: int = 1, **where: int
    ) -> None:
        """See `Recorder`."""
        found = {**where, **asdict(measure(action, "cpu", self.repeats, calls=calls, pause_s=self.pause_s))}
        rows = self.tables.setdefault(table, {})
        place = tuple(where.values())
        rows[place] = min(found, rows.get(place, found), key=lambda row: row["ms"])

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        return {name: list(rows.values()) for name, rows in self.tables.items()}


class GenerateStage:
    """Engines whose whole KV pool holds keys and values: zeros would be quicker to multiply."""

    def __init__(self, engines: Engines, floors: Floors, num_blocks: int, device: str, recorder: Recorder) -> None:
        self.engines, self.config, self.floors = engines, engines.config, floors
        self.num_blocks, self._device = num_blocks, device
        for first in range(1, num_blocks, FILL_BLOCKS):
            recorder.hurry()
            self.read(min(FILL_BLOCKS, num_blocks - first) * BLOCK_SIZE, first)
        synchronize(device)

    def read(self, positions: int, first_block: int = 1) -> torch.Tensor:
        """Embed and prefill the first positions of a prompt."""
        text = torch.full((positions, self.config.frame_columns), MASKED)
        text[:, -1] = torch.arange(positions) % self.config.text_vocab_size
        blocks = np.arange(first_block, first_block - (-positions // BLOCK_SIZE), dtype=np.int32)[None]
        inputs = self.engines.embedding.prompt(text)
        lengths, starts = np.array([positions], np.int32), np.zeros(1, np.int32)
        return self.engines.backbone.forward(Batch(inputs, lengths, starts, blocks))

    def step(self, batch: int, context: int) -> Step:
        """Return a step in which every stream generates a frame; the blocks of each lie anywhere in the pool."""
        columns, slots = _columns(context), np.arange(batch)
        blocks = 1 + np.random.default_rng(0).permutation(self.num_blocks - 1)[: batch * columns]
        return Step(
            slots=slots,
            starts=np.full(batch, context, np.int32),
            lengths=np.ones(batch, np.int32),
            blocks=blocks.reshape(batch, columns).astype(np.int32),
            generating=batch,
            rows=np.zeros((0, self.config.frame_columns), np.int64),
            samples=np.ones(batch, np.bool_),
            numbers=np.zeros(batch, np.int64),
            seeds=slots,
            temperature=np.full(batch, 0.9, np.float32),
            top_k=np.full(batch, 50),
        )

    def time_prefill(self, recorder: Recorder, positions: Sequence[int]) -> None:
        """Fill the table `prefill`."""
        for count in positions:
            recorder.time("prefill", partial(self.read, count), self.floors.prefill(count), positions=count)

    def time_parts(self, recorder: Recorder, batches: Sequence[int]) -> None:
        """Fill the tables `embedding` and `depth`, whose times do not depend on the context."""
        config, embedding = self.config, self.engines.embedding
        for batch in batches:
            codes = torch.randint(config.audio_codes, (batch, config.audio_num_codebooks), device=self._device)
            add_up = partial(embedding.audio, codes)
            recorder.time("embedding", add_up, self.floors.embedding(batch), calls=20, batch=batch)
            hidden = torch.randn(batch, config.backbone.embed_dim, device=self._device)
            hidden = hidden.to(embedding.text_table.dtype)
            sampling = sampling_of(self.step(batch, 1), np.arange(batch), config.audio_num_codebooks, hidden.device)
            sample = partial(self.engines.depth.forward, hidden, sampling)
            recorder.time("depth", sample, self.floors.depth(batch), batch=batch)

    def time_steps(self, recorder: Recorder, batches: Sequence[int], contexts: Sequence[int]) -> None:
        """Fill the tables `backbone` and `step`."""
        # All batches of the smallest context come first: if time runs out, the table is whole up to some context.
        for context in contexts:
            for batch in batches:
                if batch * _columns(context) >= self.num_blocks:
                    reason = f"the KV pool has {(self.num_blocks - 1) * BLOCK_SIZE} positions"
                    recorder.row("step", batch=batch, context=context, skipped=reason)
                    continue
                step, where = self.step(batch, context), {"batch": batch, "context": context}
                inputs = self.engines.engine.next_input.normal_(std=0.2 * self.config.audio_num_codebooks**0.5)
                read = Batch(inputs[:batch].clone(), step.lengths, step.starts, step.blocks)
                backbone = partial(self.engines.backbone.forward, read)
                recorder.time("backbone", backbone, self.floors.backbone(batch, context), **where)
                launch = partial(self.engines.launch, step)
                recorder.time("step", launch, self.floors.step(batch, context), **where)


def _columns(context: int) -> int:
    return context // BLOCK_SIZE + 1


def time_decode(
    recorder: Recorder,
    decoder: Decoder,
    codebooks: int,
    rows: Sequence[int],
    frames: Sequence[int],
    frame: Work | None = None,
) -> None:
    """Fill the table `decode`; `frame`: the work of a call of one frame, of which the bytes are the weights."""
    for length in frames:
        for count in rows:
            pieces = [Piece(slot, False, np.ones((length, codebooks), np.int32)) for slot in range(count)]
            work = frame and Work(frame.bytes, frame.flops * count * length, frame.dtype)
            recorder.time("decode", partial(decoder.decode, pieces), work, rows=count, frames=length)


def time_watermark(
    recorder: Recorder,
    watermarker: Watermarker,
    rows: Sequence[int],
    frames: Sequence[int],
    work_of: Callable[[Callable[[], object]], Work | None] = lambda call: None,
) -> None:
    """Fill the table `watermark`, in the middle of streams; `work_of` returns the work of a call."""
    noise = np.random.default_rng(0).normal(0, 0.1, max(frames) * FRAME_SAMPLES).astype(np.float32)
    for length in frames:
        for count in rows:
            pieces = [Piece(slot, False, noise[: length * FRAME_SAMPLES]) for slot in range(count)]
            mark = partial(watermarker.mark, pieces)
            recorder.time("watermark", mark, work_of(mark), rows=count, frames=length)
