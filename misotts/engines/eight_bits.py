"""The 8-bit types of weights, and the rounding to them."""

from __future__ import annotations

from typing import Literal

import torch

EightBits = Literal["int8", "fp8"]

TYPES: dict[EightBits, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST: dict[EightBits, float] = {"int8": 127.0, "fp8": torch.finfo(torch.float8_e4m3fn).max}


def round_to(ratio: torch.Tensor, eight_bits: EightBits) -> torch.Tensor:
    """Round to the nearest number of the type. Numbers beyond the largest become the largest: torch's cast makes NaN of
    them in FP8, and wraps them in INT8."""
    ratio = ratio.clamp(-LARGEST[eight_bits], LARGEST[eight_bits])
    return (ratio.round() if eight_bits == "int8" else ratio).to(TYPES[eight_bits])
