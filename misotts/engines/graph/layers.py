"""A transformer's weights as the kernels want them: norms multiplied into the matrix behind them, QKV one matrix, gate
and up one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from misotts.config import TransformerConfig
from misotts.engines.eager.layers import rotary_halves
from misotts.engines.graph.matrix import Matrix
from misotts.engines.graph.operations import Operations
from misotts.engines.table import WeightType


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
        prefix: str,
        config: TransformerConfig,
        device: str,
        dtype: torch.dtype,
        weight_type: WeightType,
    ) -> Layer:
        def read(name: str) -> torch.Tensor:
            return weights[f"{prefix}.{name}"].to(device)

        q = rotary_halves(read("attn.q_proj.weight"), config.num_heads)
        k = rotary_halves(read("attn.k_proj.weight"), config.num_kv_heads)
        qkv = torch.cat([q, k, read("attn.v_proj.weight")])
        gate_up = torch.cat([read("mlp.w1.weight"), read("mlp.w3.weight")])
        return cls(
            qkv=Matrix.make(qkv, dtype, weight_type, norm=read("sa_norm.scale")),
            output=Matrix.make(read("attn.output_proj.weight"), dtype, weight_type),
            gate_up=Matrix.make(gate_up, dtype, weight_type, norm=read("mlp_norm.scale")),
            down=Matrix.make(read("mlp.w2.weight"), dtype, weight_type),
        )

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in (self.qkv, self.output, self.gate_up, self.down))

    def merge(self, run: Operations, x: torch.Tensor, attended: torch.Tensor, norm_eps: float) -> torch.Tensor:
        """Add the attention's output and the feed-forward block to the residual x [rows, width]."""
        x = run.linear(attended, self.output, residual=x)
        return run.linear(run.linear(x, self.gate_up, norm_eps, swiglu=True), self.down, residual=x)


def load_layers(
    weights: Mapping[str, torch.Tensor],
    prefix: str,
    config: TransformerConfig,
    device: str,
    dtype: torch.dtype,
    weight_type: WeightType,
) -> list[Layer]:
    return [
        Layer.load(weights, f"{prefix}.layers.{n}", config, device, dtype, weight_type)
        for n in range(config.num_layers)
    ]
