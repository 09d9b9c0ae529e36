"""Weights of one byte: what both 8-bit types hold, and the rounding to them."""

from __future__ import annotations

from typing import Literal

import torch

EightBits = Literal["int8", "fp8"]

TYPES: dict[EightBits, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST: dict[EightBits, float] = {"int8": 127.0, "fp8": torch.finfo(torch.float8_e4m3fn).max}


def round_to(ratio: torch.Tensor, stored: EightBits) -> torch.Tensor:
    """Round to the nearest number of the type. What lies beyond the largest becomes it: torch's cast would make NaN of
    it in FP8, and wrap it in INT8."""
    ratio = ratio.clamp(-LARGEST[stored], LARGEST[stored])
    return (ratio.round() if stored == "int8" else ratio).to(TYPES[stored])
