"""A model folder → its engines, with the KV pool in the memory that they leave."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from misotts.config import ModelConfig
from misotts.engines.compiled.engine import CompiledBackbone, CompiledDepth
from misotts.engines.compiled.library import library_fault
from misotts.engines.eager.backbone import TorchBackbone
from misotts.engines.eager.depth import TorchDepth
from misotts.engines.embedding import Embedding
from misotts.engines.graph.load import load_graph_engine
from misotts.engines.interface import Backbone, Depth, Engine, Limits
from misotts.engines.kv_memory import BLOCK_SIZE, free_memory, pool_blocks
from misotts.engines.table import EngineChoice, Variant, check_choice
from misotts.engines.tensorrt_depth import TensorrtDepth
from misotts.engines.tensorrt_llm.backbone import TensorrtLlmBackbone
from misotts.engines.two_part import TwoPart
from misotts.model.checkpoint import Checkpoint, tensor_shapes

log = logging.getLogger(__name__)


def load_engine(
    folder: Path,
    config: ModelConfig,
    limits: Limits,
    choice: EngineChoice = EngineChoice(),
    kv_memory: int | None = None,
    device: str = "cpu",
) -> Engine:
    """Load the engine, in float32 on the CPU and in bfloat16 on CUDA.

    `kv_memory`: most bytes of the KV pool. The pool has what `limits.max_streams` utterances of full length need, if
    `kv_memory` and the GPU's free memory allow it.

    Raises:
        ConfigError, CheckpointError: the folder does not hold a model, or the memory does not suffice.
        EngineError: an engine is missing, does not match, or does not run on `device`.
    """
    check_choice(choice, device)
    choice = _settled(choice, device)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    weights = Checkpoint(folder, config)
    if choice.backbone == "graph":
        return load_graph_engine(weights, config, limits, choice, kv_memory, device)
    embedding = Embedding(weights, config, device, dtype)
    depth: Depth
    if choice.depth == "compiled":
        depth = CompiledDepth(weights, config, embedding)
    elif choice.depth == "tensorrt":
        depth = TensorrtDepth(folder, weights, config, dtype, limits.max_streams)
    else:
        depth = TorchDepth(weights, config, embedding)
    backbone: Backbone
    if choice.backbone == "tensorrt-llm":
        variant = Variant(choice.weights, choice.kv_type)
        backbone = TensorrtLlmBackbone(folder, weights, config, variant, limits, kv_memory, device)
    else:
        beside = None if device == "cpu" else free_memory(_backbone_bytes(config, dtype))
        blocks = pool_blocks(config, limits.max_streams, dtype.itemsize, kv_memory, beside)
        if choice.backbone == "compiled":
            backbone = CompiledBackbone(weights, config, blocks)
        else:
            backbone = TorchBackbone(weights, config, blocks, BLOCK_SIZE, device, dtype)
    return TwoPart(config, embedding, backbone, depth, limits.max_streams)


def _settled(choice: EngineChoice, device: str) -> EngineChoice:
    """Return the choice with libraries in place of `auto`."""
    if choice.backbone == "graph" or "auto" not in (choice.backbone, choice.depth):
        return choice
    library: Literal["compiled", "torch"] = "compiled" if device == "cpu" else "torch"
    if library == "compiled" and (fault := library_fault()):
        log.warning("%s; PyTorch takes its place, which is about ten times slower", fault)
        library = "torch"
    return replace(
        choice,
        backbone=library if choice.backbone == "auto" else choice.backbone,
        depth=library if choice.depth == "auto" else choice.depth,
    )


def _backbone_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of the backbone's weights."""
    shapes = tensor_shapes(config)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("backbone.")) * dtype.itemsize
