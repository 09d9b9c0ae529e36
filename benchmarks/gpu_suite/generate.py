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
from misotts.engines.interface import Batch
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.generate.slot_table import SlotTable
from misotts.generate.utterance import Utterance
from misotts.order import Order

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

    def seats(self, batch: int, context: int) -> SlotTable:
        """As the loop keeps them, each utterance on blocks of its own, anywhere in the pool."""
        columns = _columns(context)
        seats = SlotTable(batch, columns, self.config.audio_num_codebooks, self.engines.embedding)
        blocks = 1 + np.random.default_rng(0).permutation(self.num_blocks - 1)[: batch * columns]
        for seat, own in enumerate(blocks.reshape(batch, columns).tolist()):
            prompt = np.zeros((0, self.config.frame_columns), np.int32)
            seats.set(Utterance(Order(prompt, 1, seed=seat), slot=seat, blocks=own))
        seats.next_input.normal_(std=0.2 * self.config.audio_num_codebooks**0.5)
        return seats


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
    sampling = stage.seats(batch, 1).sampling(list(range(batch)), [0] * batch)
    section.time(
        "depth", partial(depth.forward, hidden, sampling), floors.depth(config, batch, size, name), batch=batch
    )


def _with_context(section: Section, stage: _Stage, batch: int, context: int) -> None:
    config, size, name = stage.config, stage.dtype.itemsize, _name(stage.dtype)
    seats, engines = stage.seats(batch, context), stage.engines
    ones, starts = np.ones(batch, np.int32), np.full(batch, context, np.int32)
    inputs = seats.next_input.clone()
    where = {"batch": batch, "context": context}
    work = floors.backbone(config, batch, context, size, name)
    section.time(
        "backbone", partial(engines.backbone.forward, Batch(inputs, ones, starts, seats.tables)), work, **where
    )
    both = floors.together(work, floors.depth(config, batch, size, name), floors.embedding(config, batch, size))
    section.time("step", partial(engines.launch, seats, context), both, **where)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
