"""A transformer layer's weights for the kernels: each norm is multiplied into the matrix behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from misotts.config import TransformerConfig
from misotts.engines.graph.matrix import Matrix
from misotts.engines.graph.operations import Operations
from misotts.engines.table import WeightType
from misotts.engines.transformer import LayerMatrix, layer_matrix


@dataclass(frozen=True)
class Layer:
    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix

    @classmethod
    def load(
        cls,
        weights: Mapping[str, torch.Tensor],
        name: str,
        config: TransformerConfig,
        device: str,
        dtype: torch.dtype,
        weight_type: WeightType,
    ) -> Layer:
        """Read the layer `name`, such as `backbone.layers.0`, from a checkpoint."""

        def matrix(part: LayerMatrix, norm: str | None = None) -> Matrix:
            weight = layer_matrix(weights, name, part, config).to(device)
            scale = None if norm is None else weights[f"{name}.{norm}.scale"].to(device)
            return Matrix.make(weight, dtype, weight_type, scale)

        return cls(matrix("qkv", "sa_norm"), matrix("output"), matrix("gate_up", "mlp_norm"), matrix("down"))

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in (self.qkv, self.output, self.gate_up, self.down))

    def merge(self, run: Operations, x: torch.Tensor, attended: torch.Tensor, norm_eps: float) -> torch.Tensor:
        """Add the attention's output and the feed-forward block to the residual x [rows, width]."""
        x = run.linear(attended, self.output, residual=x)
        return run.linear(run.linear(x, self.gate_up, norm_eps, swiglu=True), self.down, residual=x)


def load_layers(
    weights: Mapping[str, torch.Tensor],
    name: str,
    config: TransformerConfig,
    device: str,
    dtype: torch.dtype,
    weight_type: WeightType,
) -> list[Layer]:
    return [
        Layer.load(weights, f"{name}.layers.{n}", config, device, dtype, weight_type) for n in range(config.num_layers)
    ]
