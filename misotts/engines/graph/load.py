"""Weights → the graph engine."""

from __future__ import annotations

import logging

import torch

from misotts.config import ModelConfig
from misotts.engines.embedding import Embedding
from misotts.engines.graph.backbone import GraphBackbone
from misotts.engines.graph.depth import GraphDepth
from misotts.engines.graph.engine import GraphEngine, bucket_shapes
from misotts.engines.graph.memory import plan_memory
from misotts.engines.graph.operations import operations_on
from misotts.engines.interface import Limits
from misotts.engines.kv_memory import BLOCK_SIZE, pool_blocks
from misotts.engines.table import EngineChoice, EngineError
from misotts.model.weight_files import Weights

log = logging.getLogger(__name__)

FP8_CAPABILITY = (8, 9)
"""Compute capability of Ada, the first GPUs that convert to and from FP8."""


def load_graph_engine(
    weights: Weights, config: ModelConfig, limits: Limits, choice: EngineChoice, kv_memory: int | None, device: str
) -> GraphEngine:
    """On CUDA: plan the memory, load in bfloat16, capture the graphs. On the CPU: run the same code in float32, with
    plain operations and without capture. `kv_memory`: most bytes of the KV pool.

    Raises:
        ConfigError: the memory does not suffice; see `plan_memory`.
        EngineError: the GPU does not support FP8.
    """
    if device == "cpu":
        dtype = torch.float32
        blocks = pool_blocks(config, limits.max_streams, dtype.itemsize, kv_memory, None)
    else:
        dtype = torch.bfloat16
        _check_capability(choice)
        graphs = len(bucket_shapes(limits.max_streams, config.audio_codes))
        free = torch.cuda.mem_get_info()[0]
        plan = plan_memory(config, limits, free, graphs, choice.weights, choice.kv_type, kv_memory)
        log.info("%s", plan)
        blocks = plan.blocks
    run = operations_on(device)
    embedding = Embedding(weights, config, device, dtype)
    depth = GraphDepth(weights, config, embedding, run, choice.weights)
    backbone = GraphBackbone(weights, config, blocks, BLOCK_SIZE, run, device, dtype, choice.weights, choice.kv_type)
    return GraphEngine(config, embedding, backbone, depth, limits.max_streams)


def _check_capability(choice: EngineChoice) -> None:
    capability = torch.cuda.get_device_capability()
    if "fp8" in (choice.weights, choice.kv_type) and capability < FP8_CAPABILITY:
        found, needed = (".".join(map(str, each)) for each in (capability, FP8_CAPABILITY))
        raise EngineError(f"FP8 needs compute capability {needed} or above, the GPU of this machine has {found}")
