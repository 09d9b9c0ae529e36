"""A model folder's depth decoder → `engines/depth-onnx-<dtype>`: `graph.onnx`, `weights.safetensors`, `manifest.json`.

ONNX keeps large tensors as (file, offset, length), and a safetensors file is as good as any for that: the weights are
streamed from the checkpoint into it, one at a time, and the graph refers to them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import onnx_ir as ir
import torch

from convert.depth_graph import DTYPES, OPSET, depth_graph
from convert.depth_weights import depth_shapes, depth_weight
from convert.disk import check_disk
from misotts import __version__
from misotts.checkpoint import Checkpoint
from misotts.config import ModelConfig
from misotts.draft import draft_folder
from misotts.generate.engines.manifest import Manifest, depth_hash, dtype_name, engine_folder
from misotts.weight_files import save_weights, tensor_places

GRAPH, WEIGHTS = "graph.onnx", "weights.safetensors"

Progress = Callable[[int, int], object]
"""Told how many bytes of the weights are written, and how many there are in all."""


def convert_depth(model: Path, dtype: torch.dtype, progress: Progress) -> Path:
    """Write the depth graph of a model folder in `dtype`, unless it is there already; return its folder.

    Raises:
        ConfigError, CheckpointError: `model` is no model folder.
        EngineError: the disk is too full.
    """
    config = ModelConfig.load(model)
    checkpoint = Checkpoint(model, config)
    folder = engine_folder(model, "depth-onnx", dtype)
    made_with = {"misotts": __version__, "opset": str(OPSET)}
    manifest = Manifest(depth_hash(checkpoint, config), dtype_name(dtype), made_with)
    if manifest.is_at(folder):
        return folder
    check_disk(model, sum(map(prod, depth_shapes(config).values())) * dtype.itemsize)
    with draft_folder(folder) as draft:
        _write_weights(draft / WEIGHTS, checkpoint, config, dtype, progress)
        ir.save(depth_graph(config, dtype, _external(draft / WEIGHTS, config, dtype)), draft / GRAPH)
        manifest.save(draft)
    return folder


def _write_weights(
    path: Path, checkpoint: Checkpoint, config: ModelConfig, dtype: torch.dtype, progress: Progress
) -> None:
    shapes = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in depth_shapes(config).items()}
    total, written = sum(tensor.nbytes for tensor in shapes.values()), 0

    def wrote(size: int) -> None:
        nonlocal written
        written += size
        progress(written, total)

    save_weights(path, shapes, wrote, lambda name: depth_weight(name, checkpoint, config).to(dtype))


def _external(path: Path, config: ModelConfig, dtype: torch.dtype) -> dict[str, ir.ExternalTensor]:
    """The weights as the graph refers to them: by their place in the file beside it."""
    shapes, places = depth_shapes(config), tensor_places(path)
    return {
        name: ir.ExternalTensor(
            path.name, offset, length, DTYPES[dtype], shape=ir.Shape(shapes[name]), name=name, base_dir=path.parent
        )
        for name, (offset, length) in places.items()
    }
