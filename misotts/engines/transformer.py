"""Weights and rotary embedding of a transformer, as our engines use them: half-split RoPE; q, k and v in one matrix,
gate and up in one matrix."""

from __future__ import annotations

import math
from typing import Literal

import torch

from misotts.config import TransformerConfig
from misotts.model.weight_files import Weights

LayerMatrix = Literal["qkv", "output", "gate_up", "down"]


def layer_matrix(weights: Weights, layer: str, name: LayerMatrix, config: TransformerConfig) -> torch.Tensor:
    """Read a matrix [outputs, inputs] of a layer, such as `backbone.layers.0`, from a checkpoint."""

    def read(part: str) -> torch.Tensor:
        return weights[f"{layer}.{part}.weight"]

    if name == "qkv":
        q = rotary_halves(read("attn.q_proj"), config.num_heads)
        k = rotary_halves(read("attn.k_proj"), config.num_kv_heads)
        return torch.cat([q, k, read("attn.v_proj")])
    if name == "gate_up":
        return torch.cat([read("mlp.w1"), read("mlp.w3")])
    return read("attn.output_proj" if name == "output" else "mlp.w2")


def rotary_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Permute the rows of a q or k projection [heads * head_dim, width] from torchtune's interleaved RoPE pairs
    (x0, x1), (x2, x3), ... to the half-split pairs (x0, x[head_dim/2]), ... that everything else uses."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def rope_table(config: TransformerConfig, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tables for `rotate`: cosines and signed sines [positions, head_dim], float32, with Llama 3.1's
    frequency scaling (low factor 1, high factor 4, original context 8192)."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequency = 1.0 / config.rope_base**half
    wavelength = 2 * math.pi / frequency
    low, high, original = 1.0, 4.0, 8192.0
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    frequency = frequency * (smooth + (1 - smooth) / config.rope_scale_factor)
    angle = torch.outer(torch.arange(positions, dtype=torch.float32), frequency)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply RoPE to x [..., heads, head_dim] with cos and sin [..., 1, head_dim] of `rope_table` (half-split): its
    halves a, b become a cos - b sin, b cos + a sin."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin
