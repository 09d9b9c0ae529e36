"""Sections `generate, <engine>`: what a frame costs at the full shape, by batch and context."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from benchmarks.costs import floors
from benchmarks.costs.engines import ENGINES, Engines, Needs, RandomWeights
from benchmarks.costs.timing import memory, synchronize
from benchmarks.gpu_suite.section import Section
from misotts.config import MASKED
from misotts.engines.interface import Batch, Step
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.two_part import sampling_of

FILL_BLOCKS = 64
"""Blocks of one pass that fills the pool."""

ACTIVATIONS = 0.2
"""Share of the memory that the KV pool must leave."""


def generate(section: Section, engine: str) -> None:
    """Sends the tables `embedding`, `depth`, `prefill`, `backbone` and `step`, and how memory is spent."""
    stage = _Stage(section, engine)
    _prefill(section, stage)
    rows = [batch for batch in section.sizes.batches if batch <= stage.max_streams]
    for batch in rows:
        _without_context(section, stage, batch)
    # Small contexts of every batch first: if time runs out, the table is whole up to some context.
    for context in section.sizes.contexts:
        for batch in rows:
            if not stage.holds(batch, context):
                section.row(
                    "step", batch=batch, context=context, skipped=f"the KV pool has {stage.positions} positions"
                )
                continue
            _with_context(section, stage, batch, context)
    section.value("memory", memory(section.device))


class _Stage:
    """Engines at the full shape, the pool full of keys and values."""

    def __init__(self, section: Section, engine: str) -> None:
        self.config, self.device, self.dtype = section.sizes.config, section.device, section.dtype
        self.max_streams = max(section.sizes.batches)
        weights = RandomWeights(self.config, self.device, self.dtype)
        fit = blocks_that_fit(section, weights)
        num_blocks = min(fit, 1 + section.sizes.pool_positions // BLOCK_SIZE)
        self.engines: Engines = ENGINES[engine](
            Needs(weights, self.config, num_blocks, self.max_streams, self.device, self.dtype)
        )
        self.num_blocks = num_blocks
        section.value("kv_blocks_that_fit", fit)
        section.value("dtype", _name(self.dtype))
        self._fill(section)

    @property
    def positions(self) -> int:
        return (self.num_blocks - 1) * BLOCK_SIZE

    def holds(self, batch: int, context: int) -> bool:
        return batch * _columns(context) < self.num_blocks

    def _fill(self, section: Section) -> None:
        """Write every block of the pool once: zeros would be quicker to multiply."""
        for first in range(1, self.num_blocks, FILL_BLOCKS):
            section.hurry()
            self.read(min(FILL_BLOCKS, self.num_blocks - first) * BLOCK_SIZE, first)
        synchronize(self.device)

    def read(self, positions: int, first_block: int = 1) -> torch.Tensor:
        """The first positions of a prompt, its embedding among them."""
        text = torch.full((positions, self.config.frame_columns), MASKED)
        text[:, -1] = torch.arange(positions) % self.config.text_vocab_size
        blocks = np.arange(first_block, first_block - (-positions // BLOCK_SIZE), dtype=np.int32)[None]
        inputs = self.engines.embedding.prompt(text)
        return self.engines.backbone.forward(
            Batch(inputs, np.array([positions], np.int32), np.zeros(1, np.int32), blocks)
        )

    def step(self, batch: int, context: int) -> Step:
        """A step in which every stream generates a frame; the blocks of each lie anywhere in the pool."""
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


def _columns(context: int) -> int:
    return context // BLOCK_SIZE + 1


def blocks_that_fit(section: Section, weights: RandomWeights) -> int:
    """Blocks of a pool that takes what the GPU has left beside the weights, the depth decoder's table of inputs and the
    activations; on a CPU, as many as are asked for."""
    config, size = section.sizes.config, section.dtype.itemsize
    if section.device != "cuda":
        return 1 + section.sizes.pool_positions // BLOCK_SIZE
    free = torch.cuda.mem_get_info()[0] * (1 - ACTIVATIONS)
    taken = sum(math.prod(shape) for shape in weights.shapes.values())
    taken += config.audio_num_codebooks * config.audio_vocab_size * config.depth.embed_dim
    return int((free - taken * size) // (floors.position_bytes(config.backbone, size) * BLOCK_SIZE))


def _prefill(section: Section, stage: _Stage) -> None:
    config, name = stage.config, _name(stage.dtype)
    for positions in section.sizes.pieces:
        work = floors.prefill(config, positions, stage.dtype.itemsize, name)
        section.time("prefill", partial(stage.read, positions), work, positions=positions)


def _without_context(section: Section, stage: _Stage, batch: int) -> None:
    """What costs the same whatever has been said so far."""
    config, size, name = stage.config, stage.dtype.itemsize, _name(stage.dtype)
    embedding, depth = stage.engines.embedding, stage.engines.depth
    codes = torch.randint(config.audio_codes, (batch, config.audio_num_codebooks), device=stage.device)
    work = floors.embedding(config, batch, size)
    section.time("embedding", partial(embedding.audio, codes), work, calls=20, batch=batch)
    hidden = torch.randn(batch, config.backbone.embed_dim, device=stage.device).to(stage.dtype)
    sampling = sampling_of(stage.step(batch, 1), np.arange(batch), config.audio_num_codebooks, hidden.device)
    section.time(
        "depth", partial(depth.forward, hidden, sampling), floors.depth(config, batch, size, name), batch=batch
    )


def _with_context(section: Section, stage: _Stage, batch: int, context: int) -> None:
    config, size, name = stage.config, stage.dtype.itemsize, _name(stage.dtype)
    step, engines = stage.step(batch, context), stage.engines
    inputs = engines.engine.next_input.normal_(std=0.2 * config.audio_num_codebooks**0.5)[:batch].clone()
    where = {"batch": batch, "context": context}
    work = floors.backbone(config, batch, context, size, name)
    section.time(
        "backbone",
        partial(engines.backbone.forward, Batch(inputs, step.lengths, step.starts, step.blocks)),
        work,
        **where,
    )
    both = floors.together(work, floors.depth(config, batch, size, name), floors.embedding(config, batch, size))
    section.time("step", partial(engines.launch, step), both, **where)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
