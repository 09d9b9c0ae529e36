"""A matrix as it lies on the device: in the type of the activations, or rounded to one byte a weight.

Weight-only: a byte becomes the activations' type again on its way from memory to the product, which both FP8 (E4M3) and
INT8 do exactly in bfloat16; each output's scale is multiplied in behind the product. Half the bytes is what is gained;
the arithmetic stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from misotts.engines.eight_bits import LARGEST, round_to

WeightType = Literal["full", "fp8", "int8"]
"""`full`: the type of the activations."""

KvType = Literal["full", "fp8"]


def stored_types(engine: str) -> tuple[WeightType, bool]:
    """How `graph`, `graph-int8`, `graph-fp8-kv8`, ... keep their weights, and whether keys and values are FP8."""
    parts = engine.split("-")
    return "int8" if "int8" in parts else "fp8" if "fp8" in parts else "full", "kv8" in parts


@dataclass(frozen=True)
class Matrix:
    """Weights [outputs, inputs]; real = stored x scale."""

    weight: torch.Tensor
    """The activations' type, float8_e4m3fn or int8."""
    scale: torch.Tensor | None = None
    """float32 [outputs], of a quantised matrix."""

    @classmethod
    def make(
        cls, weight: torch.Tensor, dtype: torch.dtype, stored: WeightType = "full", norm: torch.Tensor | None = None
    ) -> Matrix:
        """Take over `weight` [outputs, inputs]. `norm` [inputs] is the scale of an RMSNorm in front: it is multiplied
        in, before any rounding."""
        real = weight.float()
        if norm is not None:
            real = real * norm.float()
        if stored == "full":
            return cls(real.to(dtype).contiguous())
        scale = real.abs().amax(dim=1).clamp(min=1e-12) / LARGEST[stored]
        return cls(round_to(real / scale.unsqueeze(1), stored).contiguous(), scale)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + (self.scale.nbytes if self.scale is not None else 0)
