"""Weight-only quantisation: a matrix [in, out] as 8-bit numbers and one scale for each of its outputs.

The products stay in the graph's type; only what is read from memory shrinks. Nearest rounding, no calibration: real =
stored x scale, scale = the column's largest magnitude / the largest stored value.
"""

from __future__ import annotations

import torch

from misotts.engines.eight_bits import LARGEST, EightBits, round_to


def column_scales(matrix: torch.Tensor, stored: EightBits, dtype: torch.dtype) -> torch.Tensor:
    """The scales [out] of a matrix [in, out], rounded to `dtype`, the type in which the graph multiplies by them. A
    column of zeros, or of what `dtype` cannot tell from zero, gets 1."""
    scales = (matrix.float().abs().amax(dim=0) / LARGEST[stored]).to(dtype)
    return torch.where(scales > 0, scales, torch.ones_like(scales))


def round_columns(matrix: torch.Tensor, scales: torch.Tensor, stored: EightBits) -> torch.Tensor:
    """What is stored of a matrix. The scales are those that the graph has, so that their own rounding costs nothing but
    a clamp of the largest values."""
    return round_to(matrix.float() / scales.float(), stored)
