"""Muon for the matrices of the layers, AdamW for everything else.

Muon makes each matrix's step orthogonal (Jordan et al. 2024): on a small transformer it needs about two thirds of
AdamW's steps. Matrices of one shape are worked on together, in bfloat16.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from demo.voice.lm import LanguageModel, Layer

MUON_RATE, ADAM_RATE = 0.02, 2e-3
DECAY = 0.03
MOMENTUM = 0.95


def orthogonal(matrices: Tensor) -> Tensor:
    """Newton and Schulz's iteration on matrices [n, rows, columns]: the nearest matrix with singular values near 1."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.transpose(1, 2)).to(torch.bfloat16)
    x = x / (x.flatten(1).float().norm(dim=1)[:, None, None].to(x.dtype) + 1e-7)
    for _ in range(5):
        square = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x if wide else x.transpose(1, 2)).float()


class Optimizer:
    def __init__(self, model: LanguageModel) -> None:
        self._parts: dict[tuple[int, ...], list[tuple[Tensor, slice]]] = defaultdict(list)
        """Matrices by their shape, as rows of parameters: q, k, v are one parameter, and so are gate and up."""
        matrices: set[Tensor] = set()
        for layer in model.modules():
            if isinstance(layer, Layer):
                c = layer.config
                width, kv = c.embed_dim, c.num_kv_heads * c.head_dim
                parts = {layer.qkv: (width, kv, kv), layer.output: (width,), layer.down: (width,)}
                parts[layer.gate_up] = (c.intermediate_dim,) * 2
                for linear, sizes in parts.items():
                    start = 0
                    for size in sizes:
                        shape = (size, linear.weight.shape[1])
                        self._parts[shape].append((linear.weight, slice(start, start + size)))
                        start += size
                    matrices.add(linear.weight)
        self._momenta = {weight: torch.zeros_like(weight) for weight in matrices}
        others = [weight for weight in model.parameters() if weight not in matrices]
        self._adam = torch.optim.AdamW(others, ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0, eps=1e-10)
        self._names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """A step at `rate` times the full learning rates; gradients are forgotten."""
        for group in self._adam.param_groups:
            group["lr"] = ADAM_RATE * rate
        self._adam.step()
        self._adam.zero_grad()
        for weight, momentum in self._momenta.items():
            assert weight.grad is not None
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            weight.grad.lerp_(momentum, MOMENTUM)
        for (rows, columns), parts in self._parts.items():
            steps = orthogonal(torch.stack([weight.grad[part] for weight, part in parts]))  # type: ignore[index]
            scale = MUON_RATE * rate * max(1.0, rows / columns) ** 0.5
            for (weight, part), step in zip(parts, steps, strict=True):
                weight[part].mul_(1 - MUON_RATE * rate * DECAY).sub_(step, alpha=scale)
        for weight in self._momenta:
            weight.grad = None

    def state(self) -> dict[str, Any]:
        return {"adam": self._adam.state_dict(), "momenta": {self._names[w]: m for w, m in self._momenta.items()}}

    def load(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state["adam"])
        for weight, momentum in self._momenta.items():
            momentum.copy_(state["momenta"][self._names[weight]])
