"""Weights → the engine that does a frame in one graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from misotts.config import ModelConfig
from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.engine import GraphEngine, bucket_shapes
from misotts.engines.graph.memory import plan_memory
from misotts.engines.graph.operations import operations_on
from misotts.engines.interface import Limits
from misotts.engines.table import EngineError, KvType, WeightType

log = logging.getLogger(__name__)

FP8_CAPABILITY = (8, 9)
"""The first GPUs that have conversions to and from FP8: Ada."""


def load_graph_engine(
    weights: Mapping[str, torch.Tensor],
    config: ModelConfig,
    limits: Limits,
    block_size: int,
    device: str = "cuda",
    weight_type: WeightType = "full",
    kv_type: KvType = "full",
    kv_memory: int | None = None,
    num_blocks: int | None = None,
) -> GraphEngine:
    """On CUDA: plan the memory, load in bfloat16, capture the graphs; the pool takes what is left, or at most
    `kv_memory` bytes. On the CPU: the same code in float32, plain and uncaptured, with `num_blocks` blocks.

    Raises:
        ConfigError: the GPU is too small; see `plan_memory`.
        EngineError: the GPU does not know FP8.
    """
    on_gpu = device != "cpu"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    if on_gpu:
        _check_capability(weight_type, kv_type)
        graphs = len(bucket_shapes(limits.max_streams, config.audio_codes))
        free = torch.cuda.mem_get_info()[0]
        plan = plan_memory(config, limits, free, graphs, block_size, weight_type, kv_type, kv_memory)
        log.info("%s", plan)
        num_blocks = plan.blocks
    assert num_blocks is not None
    run = operations_on(device)
    embedding = Embedding(weights, config, device, dtype)
    depth = GraphDepth(weights, config, embedding, run, device, dtype, weight_type)
    backbone = GraphBackbone(weights, config, num_blocks, block_size, run, device, dtype, weight_type, kv_type)
    return GraphEngine(backbone, depth, embedding, limits.max_streams, config.max_seq_len, config.audio_codes)


def _check_capability(weight_type: WeightType, kv_type: KvType) -> None:
    here = torch.cuda.get_device_capability()
    if (weight_type == "fp8" or kv_type == "fp8") and here < FP8_CAPABILITY:
        raise EngineError(f"FP8 needs a GPU of compute capability 8.9 or above, this one has {here[0]}.{here[1]}")
