"""A model folder → its engines and the KV pool's size."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch

from misotts.config import ConfigError, ModelConfig
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Backbone, Depth, Limits
from misotts.engines.manifest import EngineError
from misotts.engines.onnx_depth import OnnxDepth
from misotts.engines.sizes import at_least, at_most, check_kv_memory
from misotts.engines.tensorrt_depth import TensorrtDepth
from misotts.engines.tensorrt_llm.backbone import TensorrtLlmBackbone, Variant
from misotts.model.checkpoint import Checkpoint, tensor_shapes

log = logging.getLogger(__name__)

BLOCK_SIZE = 32


def load_backbone(
    name: str,
    folder: Path,
    config: ModelConfig,
    weights: Checkpoint,
    limits: Limits,
    kv_memory: int | None,
    device: str,
    dtype: torch.dtype,
) -> Backbone:
    """The engine, with a pool in what memory its weights leave."""
    engine: TorchBackbone | TensorrtLlmBackbone
    if name == "torch":
        free = free_beside(backbone_bytes(config, dtype)) if device != "cpu" else None
        num_blocks = pool_blocks(config, limits, dtype, kv_memory, free)
        engine = TorchBackbone(weights, config, num_blocks, BLOCK_SIZE, device, dtype)
    elif device != "cpu":
        variant = Variant.named(name, dtype)
        free = free_beside(variant.engine_bytes(folder))
        num_blocks = pool_blocks(config, limits, variant.kv_dtype, kv_memory, free)
        engine = TensorrtLlmBackbone(folder, weights, config, variant, limits, num_blocks, device)
    else:
        raise EngineError(f"the {name} backbone engine does not run on {device}")
    log.info("KV pool: %d blocks of %d positions, %.0f MiB", num_blocks, BLOCK_SIZE, engine.pool_bytes / 2**20)
    return engine


def load_depth(
    name: str,
    folder: Path,
    config: ModelConfig,
    weights: Checkpoint,
    embedding: Embedding,
    limits: Limits,
    device: str,
    dtype: torch.dtype,
) -> Depth:
    if name == "torch":
        return TorchDepth(weights, config, embedding, device, dtype)
    library, _, stored = name.partition("-")
    if library == "onnx" and device == "cpu":
        return OnnxDepth(folder, weights, config, stored or None)
    if library == "tensorrt" and device != "cpu":
        return TensorrtDepth(folder, weights, config, dtype, limits.max_streams, stored or None)
    raise EngineError(f"the {name} depth engine does not run on {device}")


def pool_blocks(
    config: ModelConfig, limits: Limits, dtype: torch.dtype, kv_memory: int | None, free: int | None
) -> int:
    """Blocks of the KV pool, the scratch block among them.

    Raises:
        ConfigError: the memory does not hold one utterance of full length; names the numbers.
    """
    c = config.backbone
    block_bytes = c.num_layers * 2 * c.num_kv_heads * BLOCK_SIZE * c.head_dim * dtype.itemsize
    per_utterance = -(-config.max_seq_len // BLOCK_SIZE)
    wanted = 1 + limits.max_streams * per_utterance
    allowed = [size // block_bytes for size in (kv_memory, free) if size is not None]
    blocks = min([wanted, *allowed])
    if blocks < 1 + per_utterance:
        need = (1 + per_utterance) * block_bytes
        check_kv_memory(kv_memory, need)
        raise ConfigError(
            f"the KV pool needs at least {at_least(need)} for one utterance of full length; {at_most(free or 0)} of "
            "the GPU's memory are free for it"
        )
    return blocks


def backbone_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of the backbone's weights."""
    shapes = tensor_shapes(config)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("backbone.")) * dtype.itemsize


def free_beside(weights: int) -> int:
    """GPU bytes that the pool may take beside a backbone of so many bytes that is yet to be loaded; a tenth of them is
    left for activations."""
    return int((torch.cuda.mem_get_info()[0] - weights) * 0.9)
