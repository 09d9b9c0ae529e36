"""The backbone's next input, the sum of a frame's embeddings."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from misotts.engines.graph.choices import Choices
from misotts.engines.graph.kernels.launch import pdl_options, wait_for_previous

WIDTH = 256


@triton.jit
def embed_frames_kernel(codes, table, out, codebooks, vocabulary, width, WIDTH: tl.constexpr, PDL: tl.constexpr):
    wait_for_previous(PDL)
    row = tl.program_id(0)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < width
    total = tl.zeros((WIDTH,), tl.float32)
    for codebook in range(0, codebooks):
        place = tl.load(codes + row * codebooks + codebook) + codebook * vocabulary
        total += tl.load(table + place * width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, total.to(out.dtype.element_ty), mask=inside)


def embed_frames(codes: Tensor, table: Tensor, vocabulary: int, choices: Choices = Choices()) -> Tensor:
    """See `plain.embed_frames`."""
    rows, codebooks = codes.shape
    width = table.shape[1]
    out = table.new_empty(rows, width)
    embed_frames_kernel[(rows, triton.cdiv(width, WIDTH))](
        codes, table, out, codebooks, vocabulary, width, WIDTH=WIDTH, num_warps=4, **pdl_options(choices)
    )
    return out
