"""A transformer layer's weights for the kernels: each norm is multiplied into the matrix behind it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from misotts.config import TransformerConfig
from misotts.engines.graph.matrix import Matrix
from misotts.engines.graph.operations import Operations
from misotts.engines.table import WeightType
from misotts.engines.transfer import Device
from misotts.engines.transformer import LayerMatrix, layer_matrix
from misotts.model.weight_files import Weights


@dataclass(frozen=True)
class Layer:
    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix

    def merge(self, run: Operations, x: Tensor, attended: Tensor, norm_eps: float) -> Tensor:
        """Add the attention's output and the feed-forward block to the residual x [rows, width]."""
        x = run.linear(attended, self.output, residual=x)
        return run.linear(run.linear(x, self.gate_up, norm_eps, swiglu=True), self.down, residual=x)


def load_layers(
    weights: Weights,
    name: str,
    config: TransformerConfig,
    device: Device,
    dtype: torch.dtype,
    weight_type: WeightType,
) -> list[Layer]:
    """Read all layers of `backbone` or `decoder` from a checkpoint."""

    def matrix(layer: str, part: LayerMatrix, norm: str | None = None) -> Matrix:
        weight = layer_matrix(weights, layer, part, config).to(device)
        scale = None if norm is None else weights[f"{layer}.{norm}.scale"].to(device)
        return Matrix.make(weight, dtype, weight_type, scale)

    layers = [f"{name}.layers.{n}" for n in range(config.num_layers)]
    return [
        Layer(matrix(n, "qkv", "sa_norm"), matrix(n, "output"), matrix(n, "gate_up", "mlp_norm"), matrix(n, "down"))
        for n in layers
    ]
