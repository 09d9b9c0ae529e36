"""RMSNorm after the last layer, where no product follows that could include it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from misotts.engines.graph.choices import Choices
from misotts.engines.graph.kernels.launch import pdl_options, wait_for_previous


@triton.jit
def rms_norm_kernel(x, scale, out, width, eps, WIDTH: tl.constexpr, PDL: tl.constexpr):
    wait_for_previous(PDL)
    column = tl.arange(0, WIDTH)
    inside = column < width
    place = tl.program_id(0) * width + column
    row = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    row *= tl.rsqrt(tl.sum(row * row) / width + eps)
    row *= tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, row.to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, scale: Tensor, eps: float, choices: Choices = Choices()) -> Tensor:
    """See `plain.rms_norm`."""
    out = torch.empty_like(x)
    width = x.shape[1]
    rms_norm_kernel[(len(x),)](
        x, scale, out, width, eps, WIDTH=triton.next_power_of_2(width), num_warps=8, **pdl_options(choices)
    )
    return out
