"""Sections `frame, <engine>`, a frame at few batches and one context, and `generate, <engine>`, its cost by batch and
context and that of prefill."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.costs.engines import Engines, RandomWeights, make_engines
from benchmarks.costs.floors import Floors
from benchmarks.costs.section import Section
from benchmarks.costs.timing import memory, synchronize
from misotts.config import MASKED
from misotts.engines.interface import Batch, Step
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.table import WeightType
from misotts.engines.transfer import own_stream
from misotts.engines.two_part import sampling_of
from misotts.model.checkpoint import tensor_shapes

FILL_BLOCKS = 64
"""Blocks of one pass that fills the pool."""
ACTIVATIONS = 0.2
"""Share of the memory that the KV pool must leave."""


def generate(section: Section, engine: str) -> None:
    """Sends the tables `step`, `backbone`, `prefill`, `embedding` and `depth`, and the use of memory."""
    stage = GenerateStage(section, engine)
    section.value("kv_blocks_that_fit", stage.blocks_that_fit)
    section.value("dtype", stage.floors.dtype)
    with own_stream():  # as in the loop
        stage.time_prefill()
        stage.time_steps()
        stage.time_parts()
    section.value("memory", memory(section.device))


def frame(section: Section, engine: str) -> None:
    """Sends the tables `step`, `backbone` and `depth` of `frame_batches`."""
    stage = GenerateStage(few(section), engine)
    with own_stream():
        stage.time_steps()
        stage.time_parts()
    section.value("memory", memory(section.device))


def few(section: Section) -> Section:
    """Return the section with the batches and the context of a `frame`, and a pool for just these."""
    batches, context = section.sizes.frame_batches, section.sizes.frame_context
    positions = max(batches) * (_columns(context) + 1) * BLOCK_SIZE
    sizes = replace(section.sizes, batches=batches, contexts=(context,), pool_positions=positions)
    return replace(section, sizes=sizes)


class GenerateStage:
    """Engines with random weights, and a KV pool full of keys and values: zeros would be quicker to multiply."""

    def __init__(self, section: Section, engine: str, weight_type: WeightType = "full") -> None:
        self.section, self.sizes, self.config = section, section.sizes, section.sizes.config
        size = section.dtype.itemsize
        self.floors = Floors(self.config, str(section.dtype).removeprefix("torch."), size, size)
        self.blocks_that_fit = blocks_that_fit(section)
        self._num_blocks = min(self.blocks_that_fit, 1 + self.sizes.pool_positions // BLOCK_SIZE)
        self.engines = random_engines(section, engine, self._num_blocks, max(self.sizes.batches), weight_type)
        for first in range(1, self._num_blocks, FILL_BLOCKS):
            section.hurry()
            self.read(min(FILL_BLOCKS, self._num_blocks - first) * BLOCK_SIZE, first)
        synchronize(section.device)

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
        blocks = 1 + np.random.default_rng(0).permutation(self._num_blocks - 1)[: batch * columns]
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

    def time_prefill(self) -> None:
        for count in self.sizes.prefill_chunks:
            self.section.time("prefill", partial(self.read, count), self.floors.prefill(count), positions=count)

    def time_parts(self) -> None:
        """Fill the tables `embedding` and `depth`; their times do not depend on the context."""
        config, embedding, device = self.config, self.engines.embedding, self.section.device
        for batch in self.sizes.batches:
            codes = torch.randint(config.audio_codes, (batch, config.audio_num_codebooks), device=device)
            add_up = partial(embedding.audio, codes)
            self.section.time("embedding", add_up, self.floors.embedding(batch), calls=20, batch=batch)
            hidden = torch.randn(batch, config.backbone.embed_dim, device=device).to(embedding.text_table.dtype)
            sampling = sampling_of(self.step(batch, 1), np.arange(batch), config.audio_num_codebooks, hidden.device)
            sample = partial(self.engines.depth.forward, hidden, sampling)
            self.section.time("depth", sample, self.floors.depth(batch), batch=batch)

    def time_steps(self) -> None:
        """Fill the tables `backbone` and `step`."""
        # All batches of the smallest context come first: if time runs out, the table is whole up to some context.
        for context in self.sizes.contexts:
            for batch in self.sizes.batches:
                where = {"batch": batch, "context": context}
                if batch * _columns(context) >= self._num_blocks:
                    reason = f"the KV pool has {(self._num_blocks - 1) * BLOCK_SIZE} positions"
                    self.section.row("step", **where, skipped=reason)
                    continue
                step = self.step(batch, context)
                inputs = self.engines.engine.next_input.normal_(std=0.2 * self.config.audio_num_codebooks**0.5)
                read = Batch(inputs[:batch].clone(), step.lengths, step.starts, step.blocks)
                backbone = partial(self.engines.backbone.forward, read)
                self.section.time("backbone", backbone, self.floors.backbone(batch, context), **where)
                launch = partial(self.engines.launch, step)
                self.section.time("step", launch, self.floors.step(batch, context), **where)


def _columns(context: int) -> int:
    return context // BLOCK_SIZE + 1


def random_engines(
    section: Section, engine: str, num_blocks: int, max_streams: int, weight_type: WeightType = "full"
) -> Engines:
    """Return the engines of that name with random weights."""
    config, device, dtype = section.sizes.config, section.device, section.dtype
    weights = RandomWeights(config, device, dtype)
    return make_engines(engine, weights, config, num_blocks, max_streams, device, dtype, weight_type)


def blocks_that_fit(section: Section) -> int:
    """Return the number of blocks for which the GPU has room beside the weights, the depth decoder's table of inputs
    and the activations; on a CPU, `pool_positions` of them."""
    config, size = section.sizes.config, section.dtype.itemsize
    if section.device != "cuda":
        return 1 + section.sizes.pool_positions // BLOCK_SIZE
    free = torch.cuda.mem_get_info()[0] * (1 - ACTIVATIONS)
    taken = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    taken += config.audio_num_codebooks * config.audio_vocab_size * config.depth.embed_dim
    position_bytes = Floors(config, "", size, size).position_bytes
    return int((free - taken * size) // (position_bytes * BLOCK_SIZE))
