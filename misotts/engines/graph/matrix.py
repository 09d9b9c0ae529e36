"""A matrix on the device: in the type of the activations, or rounded to one byte a weight.

Only the weights are quantised. A byte is converted to the activations' type between memory and product, which is exact
in bfloat16 for FP8 (E4M3) and for INT8, and each output is multiplied by its scale after the product. This halves the
bytes that are read; the arithmetic stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from misotts.engines.eight_bits import LARGEST, round_to
from misotts.engines.table import WeightType


@dataclass(frozen=True)
class Matrix:
    """Weights [outputs, inputs]; real = stored x scale."""

    weight: Tensor
    """The activations' type, float8_e4m3fn or int8."""
    scale: Tensor | None = None
    """float32 [outputs], of a quantised matrix."""

    @classmethod
    def make(
        cls, weight: Tensor, dtype: torch.dtype, weight_type: WeightType = "full", norm: Tensor | None = None
    ) -> Matrix:
        """Convert `weight` [outputs, inputs]. `norm` [inputs], the scale of an RMSNorm in front of the product, is
        multiplied in before any rounding."""
        real = weight.float()
        if norm is not None:
            real = real * norm.float()
        if weight_type == "full":
            return cls(real.to(dtype).contiguous())
        scale = real.abs().amax(dim=1).clamp(min=1e-12) / LARGEST[weight_type]
        return cls(round_to(real / scale.unsqueeze(1), weight_type).contiguous(), scale)
