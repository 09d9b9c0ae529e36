"""A model folder → the generate stage, its engines and its KV pool."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch

from misotts.checkpoint import Checkpoint, tensor_shapes
from misotts.config import ConfigError, ModelConfig
from misotts.generate.embedding import Embedding
from misotts.generate.engines import Depth
from misotts.generate.engines.manifest import EngineError
from misotts.generate.engines.onnx_depth import OnnxDepth
from misotts.generate.engines.tensorrt_depth import TensorrtDepth
from misotts.generate.engines.torch_backbone import TorchBackbone
from misotts.generate.engines.torch_depth import TorchDepth
from misotts.generate.loop import Generator
from misotts.generate.scheduler import Limits

log = logging.getLogger(__name__)

BLOCK_SIZE = 32


def load_generator(
    folder: Path,
    config: ModelConfig,
    limits: Limits,
    first_chunk_frames: int = 1,
    kv_memory: int | None = None,
    device: str = "cpu",
    depth: str = "torch",
) -> Generator:
    """Load the engines: float32 on the CPU, bfloat16 on CUDA.

    `kv_memory`: bytes for the KV pool; left out, what `limits.max_streams` utterances of full length need, or what the
    GPU has left where that is less. `depth`: what runs the depth decoder, `torch`, `onnx` or `tensorrt`.

    Raises:
        ConfigError, CheckpointError: the folder does not hold a model.
        EngineError: the depth engine is missing, does not match, or does not run on `device`.
    """
    on_gpu = device.startswith("cuda")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    weights = Checkpoint(folder, config)
    embedding = Embedding(weights, config, device, dtype)
    depth_engine = _load_depth(depth, folder, config, weights, embedding, limits, device, dtype)
    num_blocks = pool_blocks(config, limits, dtype, kv_memory, _free_after_backbone(config, dtype) if on_gpu else None)
    backbone = TorchBackbone(weights, config, num_blocks, BLOCK_SIZE, device, dtype)
    log.info("KV pool: %d blocks of %d positions, %.0f MiB", num_blocks, BLOCK_SIZE, backbone.pool_bytes / 2**20)
    return Generator(config, embedding, backbone, depth_engine, limits, first_chunk_frames)


def _load_depth(
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
    if name == "onnx" and device == "cpu":
        return OnnxDepth(folder, weights, config)
    if name == "tensorrt" and device != "cpu":
        return TensorrtDepth(folder, weights, config, dtype, limits.max_streams)
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
        need, got = (1 + per_utterance) * block_bytes, blocks * block_bytes
        raise ConfigError(f"the KV pool needs at least {need} bytes for one utterance of full length, it has {got}")
    return blocks


def _free_after_backbone(config: ModelConfig, dtype: torch.dtype) -> int:
    """GPU bytes that the pool may take once the backbone is loaded, a tenth of them left for activations."""
    shapes = tensor_shapes(config)
    weights = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("backbone."))
    return int((torch.cuda.mem_get_info()[0] - weights * dtype.itemsize) * 0.9)
