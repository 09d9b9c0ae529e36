"""A transformer layer in plain PyTorch, for the backbone and the depth decoder.

In float32 on the CPU an utterance must get the same frames in any batch, to the last bit. The last bits of a matrix
product depend on its number of rows if there are few (below 4 on one CPU, below 16 on another), so the backbone and the
depth decoder pad their rows to a multiple of `stable_rows`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from misotts.config import TransformerConfig
from misotts.engines.transfer import Device
from misotts.engines.transformer import LayerMatrix, layer_matrix, rotate
from misotts.model.weight_files import Weights

MAX_ROW_TILE = 16


def stable_rows(weights: Iterable[torch.Tensor]) -> int:
    """Return the smallest power of two t, up to `MAX_ROW_TILE`, for which a row's product with any of `weights` [out,
    in] has the same bits on this machine with every multiple of t rows. Return 1 on CUDA, without a guarantee."""
    stable = 1
    for weight in {tuple(w.shape): w for w in weights}.values():
        if weight.device.type != "cpu":
            return 1
        x = torch.randn(8 * MAX_ROW_TILE, weight.shape[1], dtype=weight.dtype)
        whole = F.linear(x, weight)
        while stable < MAX_ROW_TILE and not all(
            torch.equal(F.linear(x[:rows], weight), whole[:rows]) for rows in range(stable, len(x), stable)
        ):
            stable *= 2
    return stable


def pad_rows(x: torch.Tensor, tile: int) -> torch.Tensor:
    """Append rows of zeros up to the next multiple of `tile`."""
    missing = -x.shape[0] % tile
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x


class RMSNorm:
    """x / sqrt(mean(x²) + eps) * scale over the last dimension."""

    def __init__(self, scale: torch.Tensor, eps: float) -> None:
        self._scale, self._eps = scale, eps
        # On the CPU PyTorch has no fused kernel and runs many small operations; in float32 these four are enough.
        self._by_length = scale.device.type == "cpu" and scale.dtype == torch.float32
        self._scale_of_unit = scale * math.sqrt(len(scale))
        self._floor = scale.new_tensor(math.sqrt(len(scale) * eps))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self._by_length:
            return F.rms_norm(x, x.shape[-1:], self._scale, self._eps)
        length = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floor)
        return x / length * self._scale_of_unit


@dataclass(frozen=True)
class Layer:
    """One transformer layer's weights."""

    attention_norm: RMSNorm
    qkv: torch.Tensor
    output: torch.Tensor
    mlp_norm: RMSNorm
    gate_up: torch.Tensor
    down: torch.Tensor

    @classmethod
    def load(cls, weights: Weights, name: str, config: TransformerConfig, device: Device, dtype: torch.dtype) -> Layer:
        """Read the layer `name`, such as `backbone.layers.0`, from a checkpoint."""

        def norm(part: str) -> RMSNorm:
            return RMSNorm(weights[f"{name}.{part}.scale"].to(device, dtype), config.norm_eps)

        def matrix(part: LayerMatrix) -> torch.Tensor:
            return layer_matrix(weights, name, part, config).to(device, dtype)

        return cls(
            norm("sa_norm"), matrix("qkv"), matrix("output"), norm("mlp_norm"), matrix("gate_up"), matrix("down")
        )

    @property
    def matrices(self) -> list[torch.Tensor]:
        return [self.qkv, self.output, self.gate_up, self.down]

    def split_heads(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, config: TransformerConfig
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalise x [..., width] and project it to q [..., heads, head_dim] and k, v [..., kv_heads, head_dim]; q and
        k are rotated (see `rotate`)."""
        x = F.linear(self.attention_norm(x), self.qkv)
        x = x.view(*x.shape[:-1], -1, config.head_dim)
        qk, v = x.split([config.num_heads + config.num_kv_heads, config.num_kv_heads], dim=-2)
        q, k = rotate(qk, cos, sin).split([config.num_heads, config.num_kv_heads], dim=-2)
        return q, k, v

    def merge(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add the attention's output [..., heads * head_dim] and the feed-forward block to the residual x."""
        x = x + F.linear(attended, self.output)
        hidden = F.linear(self.mlp_norm(x), self.gate_up)
        gate, up = hidden.chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


def load_layers(
    weights: Weights, name: str, config: TransformerConfig, device: Device, dtype: torch.dtype
) -> list[Layer]:
    return [Layer.load(weights, f"{name}.layers.{n}", config, device, dtype) for n in range(config.num_layers)]
