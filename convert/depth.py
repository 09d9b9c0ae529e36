"""A model folder's depth decoder → `engines/depth-onnx-<dtype>`: `graph.onnx`, `weights.safetensors`, `manifest.json`.

ONNX stores large tensors as (file, offset, length). Here the file is a safetensors file, into which the weights are
streamed from the checkpoint, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir
import torch

from convert.depth_graph import DTYPES, OPSET, depth_graph
from convert.depth_weights import depth_shapes, depth_weight
from convert.disk import check_disk
from misotts import __version__
from misotts.config import ModelConfig
from misotts.engines.manifest import Manifest, depth_hash, dtype_name
from misotts.engines.table import depth_graph_folder
from misotts.model.atomic_folder import atomic_folder
from misotts.model.checkpoint import Checkpoint
from misotts.model.weight_files import save_weights, tensor_places

GRAPH, WEIGHTS = "graph.onnx", "weights.safetensors"

Progress = Callable[[int, int], object]
"""Called with the number of bytes that are written, and the number of all."""


def convert_depth(model: Path, dtype: torch.dtype, progress: Progress) -> Path:
    """Write the depth graph of a model folder in `dtype`, unless it exists already; return its folder.

    Raises:
        ConfigError, CheckpointError: `model` is not a model folder.
        EngineError: the disk is too full.
    """
    config = ModelConfig.load(model)
    checkpoint = Checkpoint(model, config)
    folder = depth_graph_folder(model, dtype_name(dtype))
    made_with = {"misotts": __version__, "opset": str(OPSET)}
    manifest = Manifest(depth_hash(checkpoint, config), dtype_name(dtype), made_with)
    if manifest.is_at(folder):
        return folder.path
    layout = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in depth_shapes(config).items()}
    total, written = sum(tensor.nbytes for tensor in layout.values()), 0
    check_disk(model, total)

    def wrote(size: int) -> None:
        nonlocal written
        written += size
        progress(written, total)

    with atomic_folder(folder.path) as draft:
        save_weights(draft / WEIGHTS, layout, wrote, lambda name: depth_weight(name, checkpoint, config).to(dtype))
        ir.save(depth_graph(config, dtype, _external(draft / WEIGHTS, layout)), draft / GRAPH)
        manifest.save(draft)
    return folder.path


def _external(path: Path, layout: Mapping[str, torch.Tensor]) -> dict[str, ir.ExternalTensor]:
    """Return the graph's references to the weights in the file beside it."""
    places = tensor_places(path)
    return {
        name: ir.ExternalTensor(
            path.name,
            *places[name],
            DTYPES[tensor.dtype],
            shape=ir.Shape(tensor.shape),
            name=name,
            base_dir=path.parent,
        )
        for name, tensor in layout.items()
    }
