"""What the torch backbone and the torch depth decoder share: weights, RMSNorm, RoPE, SwiGLU.

Rows. In float32 on the CPU an utterance must get the same frames alone and in a crowd, to the last bit. A matrix
product's last bits depend on its number of rows when there are few of them (below 4 on one CPU, below 16 on another),
so both engines pad their rows to a multiple of what `stable_rows` finds, and never multiply fewer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from misotts.config import TransformerConfig

MAX_ROW_TILE = 16


def stable_rows(weights: Iterable[torch.Tensor]) -> int:
    """The smallest power of two, up to `MAX_ROW_TILE`, from which on this machine a row's product with any of `weights`
    [out, in] has the same bits whatever the number of rows. 1 on CUDA, where nothing is promised."""
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


def rotary_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Permute the rows of a q or k projection [heads * head_dim, width] from torchtune's interleaved RoPE pairs
    (x0, x1), (x2, x3), ... to the half-split pairs (x0, x[head_dim/2]), ... that everything else uses."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def rope_table(config: TransformerConfig, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What `rotate` takes: cosines and signed sines [positions, head_dim], float32, with Llama 3.1's frequency scaling
    (low factor 1, high factor 4, original context 8192)."""
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


class RMSNorm:
    """x / sqrt(mean(x²) + eps) * scale over the last dimension."""

    def __init__(self, scale: torch.Tensor, eps: float) -> None:
        self._scale, self._eps = scale, eps
        # PyTorch has no kernel for it on the CPU and runs one small operation after another; in float32 four do.
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
    """One transformer layer's weights; q, k, v are one matrix, and so are gate and up."""

    attention_norm: RMSNorm
    qkv: torch.Tensor
    output: torch.Tensor
    mlp_norm: RMSNorm
    gate_up: torch.Tensor
    down: torch.Tensor

    @classmethod
    def load(
        cls, weights: Mapping[str, torch.Tensor], prefix: str, config: TransformerConfig, to: dict[str, object]
    ) -> Layer:
        """Read `prefix`'s tensors from a checkpoint; `to` holds the keyword arguments of `Tensor.to`."""

        def read(name: str) -> torch.Tensor:
            return weights[f"{prefix}.{name}"].to(**to)  # type: ignore[call-overload]

        q = rotary_halves(read("attn.q_proj.weight"), config.num_heads)
        k = rotary_halves(read("attn.k_proj.weight"), config.num_kv_heads)
        return cls(
            attention_norm=RMSNorm(read("sa_norm.scale"), config.norm_eps),
            qkv=torch.cat([q, k, read("attn.v_proj.weight")]),
            output=read("attn.output_proj.weight"),
            mlp_norm=RMSNorm(read("mlp_norm.scale"), config.norm_eps),
            gate_up=torch.cat([read("mlp.w1.weight"), read("mlp.w3.weight")]),
            down=read("mlp.w2.weight"),
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
    weights: Mapping[str, torch.Tensor], prefix: str, config: TransformerConfig, to: dict[str, object]
) -> list[Layer]:
    return [Layer.load(weights, f"{prefix}.layers.{n}", config, to) for n in range(config.num_layers)]
