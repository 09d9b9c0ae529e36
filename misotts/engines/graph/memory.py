"""The plan of a GPU's memory, made before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from misotts.config import ConfigError, ModelConfig, TransformerConfig
from misotts.engines.interface import Limits
from misotts.engines.kv_memory import BLOCK_SIZE, check_kv_memory
from misotts.engines.table import KvType, WeightType
from misotts.model.checkpoint import tensor_shapes

HALF = 2
"""Bytes of a bfloat16."""
LIBRARIES = 1 << 30
"""Bytes for CUDA's context, cuBLAS's workspace and compiled kernels. An estimate, not measured."""
GRAPH = 48 << 20
"""Bytes of a captured graph of some 1,500 launches. An estimate, not measured."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of each share."""

    free: int
    """Free bytes before anything is loaded."""
    weights: int
    activations: int
    """Activations of the largest step or graph."""
    graphs: int
    libraries: int
    pool: int
    """Keys and values."""
    blocks: int
    """Blocks of the pool, the scratch block among them."""

    def __str__(self) -> str:
        return (
            f"GPU memory: {_gib(self.free)} free = weights {_gib(self.weights)} + graphs {_gib(self.graphs)} + "
            f"activations {_gib(self.activations)} + libraries {_gib(self.libraries)} + KV pool {_gib(self.pool)} "
            f"({self.blocks} blocks) + {_gib(self.unused)} unused"
        )

    @property
    def unused(self) -> int:
        return self.free - self.weights - self.graphs - self.activations - self.libraries - self.pool


def plan_memory(
    config: ModelConfig,
    limits: Limits,
    free: int,
    graphs: int,
    weight_type: WeightType = "full",
    kv_type: KvType = "full",
    kv_memory: int | None = None,
) -> MemoryPlan:
    """Divide `free` bytes. The pool gets what the others leave, but at most what `limits.max_streams` utterances of
    full length need, and at most `kv_memory` bytes.

    Raises:
        ConfigError: the pool would not hold one utterance of full length; names the numbers.
    """
    weights, activations = weight_bytes(config, weight_type), activation_bytes(config, limits)
    taken = weights + activations + graphs * GRAPH + LIBRARIES
    per_block = block_bytes(config.backbone, kv_type)
    per_utterance = -(-config.max_seq_len // BLOCK_SIZE)
    most = [(free - taken) // per_block, 1 + limits.max_streams * per_utterance]
    if kv_memory is not None:
        most.append(kv_memory // per_block)
    blocks = max(min(most), 0)
    if blocks < 1 + per_utterance:
        pool = (1 + per_utterance) * per_block
        check_kv_memory(kv_memory, pool)
        raise ConfigError(
            f"the GPU is too small: {_gib(free)} are free; {_gib(taken + pool)} are needed: weights "
            f"{_gib(weights)}, graphs {_gib(graphs * GRAPH)}, activations {_gib(activations)}, libraries "
            f"{_gib(LIBRARIES)}, KV pool for one utterance of full length {_gib(pool)}"
        )
    return MemoryPlan(free, weights, activations, graphs * GRAPH, LIBRARIES, blocks * per_block, blocks)


def weight_bytes(config: ModelConfig, weight_type: WeightType, width: int = HALF) -> int:
    """Bytes of the weights in `Embedding`, `GraphBackbone` and `GraphDepth`; `width`: bytes of an activation."""
    shapes = tensor_shapes(config)
    tables = sum(math.prod(shapes[f"{name}_embeddings.weight"]) for name in ("text", "audio"))
    later = (config.audio_num_codebooks - 1) * config.depth.embed_dim
    heads = config.audio_codes * (config.backbone.embed_dim + later)
    inputs = config.audio_vocab_size * later
    projection = math.prod(shapes["projection.weight"])
    plain = (tables + heads + inputs + projection + config.backbone.embed_dim) * width
    return plain + sum(_layer_bytes(c, weight_type, width) * c.num_layers for c in (config.backbone, config.depth))


def _layer_bytes(c: TransformerConfig, weight_type: WeightType, width: int) -> int:
    qkv = c.embed_dim + 2 * c.num_kv_heads * c.head_dim
    matrices = [
        (qkv, c.embed_dim),
        (c.embed_dim, c.embed_dim),
        (2 * c.intermediate_dim, c.embed_dim),
        (c.embed_dim, c.intermediate_dim),
    ]
    if weight_type == "full":
        return sum(outputs * inputs * width for outputs, inputs in matrices)
    return sum(outputs * inputs + 4 * outputs for outputs, inputs in matrices)


def activation_bytes(config: ModelConfig, limits: Limits) -> int:
    """Return an upper estimate, not measured: twice all that one layer computes for the rows of the largest step, and
    the noise of the largest graph, which needs four int64 tensors of its shape at a time."""
    c = config.backbone
    wide = 4 * c.embed_dim + 2 * c.num_kv_heads * c.head_dim + 3 * c.intermediate_dim
    step = limits.largest_step(BLOCK_SIZE) * wide * HALF * 2
    noise = limits.max_streams * config.audio_num_codebooks * config.audio_codes * 8 * 4
    return step + noise


def block_bytes(c: TransformerConfig, kv_type: KvType) -> int:
    """Bytes of a block in all layers. FP8 has a float32 scale for each key and each value of each head."""
    vector = c.head_dim + 4 if kv_type == "fp8" else c.head_dim * HALF
    return c.num_layers * 2 * c.num_kv_heads * BLOCK_SIZE * vector


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
