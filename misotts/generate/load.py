"""A model folder → the generate stage, its engines and its KV pool."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from misotts.config import ModelConfig
from misotts.engines.embedding import Embedding
from misotts.engines.graph.load import load_frame_decoder
from misotts.engines.graph.matrix import stored_types
from misotts.engines.interface import Limits
from misotts.engines.load import BLOCK_SIZE, load_backbone, load_depth, pool_blocks
from misotts.generate.loop import Generator
from misotts.model.checkpoint import Checkpoint

log = logging.getLogger(__name__)


def load_generator(
    folder: Path,
    config: ModelConfig,
    limits: Limits,
    first_chunk_frames: int = 1,
    kv_memory: int | None = None,
    device: str = "cpu",
    backbone: str = "torch",
    depth: str = "torch",
) -> Generator:
    """Load the engines: float32 on the CPU, bfloat16 on CUDA.

    `kv_memory`: bytes for the KV pool; left out, what `limits.max_streams` utterances of full length need, or what the
    GPU has left where that is less. `backbone`, `depth`: the engines, see `misotts.engines.available`.

    Raises:
        ConfigError, CheckpointError: the folder does not hold a model.
        EngineError: an engine is missing, does not match, or does not run on `device`.
    """
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    weights = Checkpoint(folder, config)
    if backbone.startswith("graph"):
        stored, fp8_kv = stored_types(backbone)
        blocks = pool_blocks(config, limits, dtype, kv_memory, None) if device == "cpu" else None
        embedding, engine = load_frame_decoder(
            weights, config, limits, BLOCK_SIZE, device, stored, fp8_kv, kv_memory, blocks
        )
        return Generator(config, embedding, engine.backbone, engine, limits, first_chunk_frames)
    embedding = Embedding(weights, config, device, dtype)
    depth_engine = load_depth(depth, folder, config, weights, embedding, limits, device, dtype)
    backbone_engine = load_backbone(backbone, folder, config, weights, limits, kv_memory, device, dtype)
    return Generator(config, embedding, backbone_engine, depth_engine, limits, first_chunk_frames)
