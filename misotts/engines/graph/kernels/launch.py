"""What the kernels' launchers share."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, on the CPU."""

SMALLEST_DOT = 16
"""Rows, columns and depth below which `tl.dot` does not go."""


def dot_type(dtype: torch.dtype) -> Any:
    """Type of a product's factors. The interpreter's product of bfloat16 is garbage, so there it is float32."""
    return tl.bfloat16 if dtype == torch.bfloat16 and not INTERPRETED else tl.float32


def tile(size: int) -> int:
    """The smallest tile of `tl.dot` that holds `size`."""
    return max(SMALLEST_DOT, triton.next_power_of_2(size))
