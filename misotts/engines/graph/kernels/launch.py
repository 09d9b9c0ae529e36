"""Types, tile sizes and options for the kernels' launchers, and programmatic dependent launch."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from misotts.engines.graph.choices import Choices

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""True if kernels run in Triton's interpreter, on the CPU."""

SMALLEST_DOT = 16
"""Least number of rows, columns and terms of `tl.dot`."""


@triton.jit
def wait_for_previous(PDL: tl.constexpr):
    """With programmatic dependent launch, wait for the end of the kernel before, and let the next one be launched.
    Every kernel calls it before it reads or writes anything; it may prefetch weights earlier."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def prefetch(places):
    """Send for the cache lines at `places` from memory to L2, and do not wait for them."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [places.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1
    )


def pdl_options(choices: Choices) -> dict[str, bool]:
    """Options of a kernel's launch. The interpreter has no programmatic dependent launch."""
    return {"PDL": False} if INTERPRETED else {"PDL": choices.pdl, "launch_pdl": choices.pdl}


def dot_type(dtype: torch.dtype) -> Any:
    """Type of a product's factors. It is float32 in the interpreter, where products of bfloat16 are wrong."""
    return tl.bfloat16 if dtype == torch.bfloat16 and not INTERPRETED else tl.float32


def tile(size: int) -> int:
    """Size of the smallest tile of `tl.dot` that holds `size`."""
    return max(SMALLEST_DOT, int(triton.next_power_of_2(size)))
