"""A matrix as it lies on the device: in the type of the activations, or rounded to one byte a weight.

Weight-only: a byte becomes the activations' type again on its way from memory to the product, which both FP8 (E4M3) and
INT8 do exactly in bfloat16; each output's scale is multiplied in behind the product. Half the bytes is what is gained;
the arithmetic stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from misotts.engines.eight_bits import LARGEST, round_to
from misotts.engines.table import WeightType


@dataclass(frozen=True)
class Matrix:
    """Weights [outputs, inputs]; real = stored x scale."""

    weight: torch.Tensor
    """The activations' type, float8_e4m3fn or int8."""
    scale: torch.Tensor | None = None
    """float32 [outputs], of a quantised matrix."""

    @classmethod
    def make(
        cls,
        weight: torch.Tensor,
        dtype: torch.dtype,
        weight_type: WeightType = "full",
        norm: torch.Tensor | None = None,
    ) -> Matrix:
        """Take over `weight` [outputs, inputs]. `norm` [inputs] is the scale of an RMSNorm in front: it is multiplied
        in, before any rounding."""
        real = weight.float()
        if norm is not None:
            real = real * norm.float()
        if weight_type == "full":
            return cls(real.to(dtype).contiguous())
        scale = real.abs().amax(dim=1).clamp(min=1e-12) / LARGEST[weight_type]
        return cls(round_to(real / scale.unsqueeze(1), weight_type).contiguous(), scale)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + (self.scale.nbytes if self.scale is not None else 0)
