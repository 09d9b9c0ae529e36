"""Types and tile sizes for the kernels' launchers."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""True if kernels run in Triton's interpreter, on the CPU."""

SMALLEST_DOT = 16
"""Least number of rows, columns and terms of `tl.dot`."""


def dot_type(dtype: torch.dtype) -> Any:
    """Type of a product's factors. It is float32 in the interpreter, where products of bfloat16 are wrong."""
    return tl.bfloat16 if dtype == torch.bfloat16 and not INTERPRETED else tl.float32


def tile(size: int) -> int:
    """Size of the smallest tile of `tl.dot` that holds `size`."""
    return max(SMALLEST_DOT, int(triton.next_power_of_2(size)))
