"""Sections `generate, <engine>`: the cost of a frame at the full shape, by batch and context."""

from __future__ import annotations

import math

import torch

from benchmarks.costs.engines import Engines, RandomWeights, make_engines
from benchmarks.costs.floors import Floors
from benchmarks.costs.grids import GenerateStage
from benchmarks.costs.timing import memory
from benchmarks.gpu_suite.section import Section
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.model.checkpoint import tensor_shapes

ACTIVATIONS = 0.2
"""Share of the memory that the KV pool must leave."""


def generate(section: Section, engine: str) -> None:
    """Sends the tables `embedding`, `depth`, `prefill`, `backbone` and `step`, and the use of memory."""
    sizes, dtype = section.sizes, section.dtype
    floors = Floors(sizes.config, str(dtype).removeprefix("torch."), dtype.itemsize, dtype.itemsize)
    fit = blocks_that_fit(section)
    section.value("kv_blocks_that_fit", fit)
    section.value("dtype", floors.dtype)
    num_blocks = min(fit, 1 + sizes.pool_positions // BLOCK_SIZE)
    engines = random_engines(section, engine, num_blocks, max(sizes.batches))
    stage = GenerateStage(engines, floors, num_blocks, section.device, section)
    stage.time_prefill(section, sizes.prefill_chunks)
    stage.time_parts(section, sizes.batches)
    stage.time_steps(section, sizes.batches, sizes.contexts)
    section.value("memory", memory(section.device))


def random_engines(section: Section, engine: str, num_blocks: int, max_streams: int) -> Engines:
    """Return the engines of that name with random weights."""
    config, device, dtype = section.sizes.config, section.device, section.dtype
    weights = RandomWeights(config, device, dtype)
    return make_engines(engine, weights, config, num_blocks, max_streams, device, dtype)


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
