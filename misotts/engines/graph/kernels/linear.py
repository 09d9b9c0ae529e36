"""Matrix products of few rows, which take the time of reading the weights: each weight is read once, and the operations
before and after the product need no launch of their own.

RMSNorm needs no pass before the product. Its scale is in the weights (`matrix.py`), and a row can be divided by its
length after the product as well; the length is summed up while the row is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from misotts.engines.graph import plain
from misotts.engines.graph.kernels.launch import dot_type, tile
from misotts.engines.graph.matrix import Matrix

MANY_ROWS = 64
"""With more rows than this, reading the weights no longer dominates, and unless they are quantised cuBLAS
multiplies."""


@triton.jit(do_not_specialize=["rows"])  # so that a prompt of a new length does not wait for a compilation
def linear_kernel(
    x,
    weight,
    scale,
    residual,
    out,
    rows,
    outputs,
    inputs,
    eps,
    NORM: tl.constexpr,
    SWIGLU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    QUANTISED: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    DOT: tl.constexpr,
):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row, is_column = row < rows, column < outputs
    product = tl.zeros((ROWS, OUTPUTS), tl.float32)
    up = tl.zeros((ROWS, OUTPUTS), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for first in range(0, inputs, INPUTS):
        i = first + tl.arange(0, INPUTS)
        is_input = i < inputs
        a = tl.load(x + row[:, None] * inputs + i[None, :], mask=is_row[:, None] & is_input[None, :], other=0.0)
        if NORM:
            squares += tl.sum(a.to(tl.float32) * a.to(tl.float32), axis=1)
        places = weight + column[None, :] * inputs + i[:, None]
        inside = is_column[None, :] & is_input[:, None]
        product = tl.dot(a.to(DOT), tl.load(places, mask=inside, other=0.0).to(DOT), product, input_precision="ieee")
        if SWIGLU:
            second = tl.load(places + outputs * inputs, mask=inside, other=0.0)
            up = tl.dot(a.to(DOT), second.to(DOT), up, input_precision="ieee")
    if QUANTISED:
        product *= tl.load(scale + column, mask=is_column, other=0.0)[None, :]
        if SWIGLU:
            up *= tl.load(scale + outputs + column, mask=is_column, other=0.0)[None, :]
    if NORM:
        shrink = tl.rsqrt(squares / inputs + eps)[:, None]
        product *= shrink
        up *= shrink
    if SWIGLU:
        product = product * tl.sigmoid(product) * up
    place = row[:, None] * outputs + column[None, :]
    inside = is_row[:, None] & is_column[None, :]
    if RESIDUAL:
        product += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, product.to(out.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class LinearTiles:
    """Tiles of a product: each program computes `rows` x `outputs` of it, `inputs` at a time."""

    rows: int
    outputs: int
    inputs: int


def linear_tiles(rows: int) -> LinearTiles:
    """For few rows the tiles are narrow, so that even the narrowest matrix (1536 outputs) keeps 96 programs busy, and
    the prefetch is deep: 16 x 256 x 2 bytes x 3 stages are 24 KiB a program, and 16 KiB an SM hide 0.7 us at 3 TB/s."""
    if rows <= 16:
        return LinearTiles(rows=16, outputs=16, inputs=256)
    if rows <= 32:
        return LinearTiles(rows=32, outputs=32, inputs=128)
    return LinearTiles(rows=64, outputs=64, inputs=64)


def linear(
    x: Tensor, matrix: Matrix, norm_eps: float | None = None, swiglu: bool = False, residual: Tensor | None = None
) -> Tensor:
    """See `plain.linear`."""
    rows, inputs = x.shape
    if rows > MANY_ROWS and matrix.scale is None:
        return plain.linear(x, matrix, norm_eps, swiglu, residual)
    outputs = matrix.weight.shape[0] // (2 if swiglu else 1)
    out = x.new_empty(rows, outputs)
    tiles = linear_tiles(rows)
    grid = (triton.cdiv(outputs, tiles.outputs), triton.cdiv(rows, tiles.rows))
    linear_kernel[grid](
        x,
        matrix.weight,
        matrix.scale if matrix.scale is not None else x,
        residual if residual is not None else x,
        out,
        rows,
        outputs,
        inputs,
        norm_eps or 0.0,
        NORM=norm_eps is not None,
        SWIGLU=swiglu,
        RESIDUAL=residual is not None,
        QUANTISED=matrix.scale is not None,
        ROWS=tiles.rows,
        OUTPUTS=tiles.outputs,
        INPUTS=min(tiles.inputs, tile(inputs)),
        DOT=dot_type(x.dtype),
        num_warps=4,
        num_stages=4,
    )
    return out
