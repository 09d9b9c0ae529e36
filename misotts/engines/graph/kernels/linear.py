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
from misotts.engines.graph.choices import Choices
from misotts.engines.graph.kernels.launch import INTERPRETED, dot_type, pdl_options, prefetch, tile, wait_for_previous
from misotts.engines.graph.matrix import Matrix

MANY_ROWS = 64
"""With more rows than this, reading the weights no longer dominates, and unless they are quantised cuBLAS
multiplies."""
PREFETCHED = 2048
"""Bytes of each of its outputs' weights that a program sends for before it waits for the kernel before."""
LINE = 128
"""Bytes of a cache line."""


@triton.jit
def prefetch_and_wait(
    weight,
    column,
    outputs,
    inputs,
    SWIGLU: tl.constexpr,
    LINES: tl.constexpr,
    LINE: tl.constexpr,
    PDL: tl.constexpr,
):
    """With programmatic dependent launch, prefetch the first `LINES` lines, of `LINE` weights each, of some outputs,
    and wait for the kernel before."""
    if PDL:
        first = tl.minimum(tl.arange(0, LINES) * LINE, inputs - 1)
        places = weight + tl.minimum(column, outputs - 1)[:, None] * inputs + first[None, :]
        prefetch(places)
        if SWIGLU:
            prefetch(places + outputs * inputs)
    wait_for_previous(PDL)


@triton.jit
def finish(
    product,
    up,
    squares,
    inputs,
    eps,
    scale,
    column,
    is_column,
    outputs,
    NORM: tl.constexpr,
    SWIGLU: tl.constexpr,
    QUANTISED: tl.constexpr,
):
    """Apply scales, norm and SwiGLU to sums [rows, outputs]. squares: [rows]."""
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
    return product


@triton.jit
def times(a, weights, total, WEIGHTS_LEFT: tl.constexpr, DOT: tl.constexpr):
    """Add a [rows, inputs] times weights [inputs, outputs] to the total, which is transposed if weights are left."""
    if WEIGHTS_LEFT:
        total = tl.dot(tl.trans(weights).to(DOT), tl.trans(a).to(DOT), total, input_precision="ieee")
    else:
        total = tl.dot(a.to(DOT), weights.to(DOT), total, input_precision="ieee")
    return total


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
    WEIGHTS_LEFT: tl.constexpr,
    LINES: tl.constexpr,
    LINE: tl.constexpr,
    DOT: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row, is_column = row < rows, column < outputs
    prefetch_and_wait(weight, column, outputs, inputs, SWIGLU, LINES, LINE, PDL)
    product = tl.zeros((OUTPUTS, ROWS) if WEIGHTS_LEFT else (ROWS, OUTPUTS), tl.float32)
    up = tl.zeros((OUTPUTS, ROWS) if WEIGHTS_LEFT else (ROWS, OUTPUTS), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for first in range(0, inputs, INPUTS):
        i = first + tl.arange(0, INPUTS)
        is_input = i < inputs
        a = tl.load(x + row[:, None] * inputs + i[None, :], mask=is_row[:, None] & is_input[None, :], other=0.0)
        if NORM:
            squares += tl.sum(a.to(tl.float32) * a.to(tl.float32), axis=1)
        places = weight + column[None, :] * inputs + i[:, None]
        inside = is_column[None, :] & is_input[:, None]
        product = times(a, tl.load(places, mask=inside, other=0.0), product, WEIGHTS_LEFT, DOT)
        if SWIGLU:
            second = tl.load(places + outputs * inputs, mask=inside, other=0.0)
            up = times(a, second, up, WEIGHTS_LEFT, DOT)
    if WEIGHTS_LEFT:
        product, up = tl.trans(product), tl.trans(up)
    product = finish(product, up, squares, inputs, eps, scale, column, is_column, outputs, NORM, SWIGLU, QUANTISED)
    place = row[:, None] * outputs + column[None, :]
    inside = is_row[:, None] & is_column[None, :]
    if RESIDUAL:
        product += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, product.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gemv_kernel(
    x,
    weight,
    scale,
    residual,
    out,
    outputs,
    inputs,
    eps,
    NORM: tl.constexpr,
    SWIGLU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    QUANTISED: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    UNROLL: tl.constexpr,
    LINES: tl.constexpr,
    LINE: tl.constexpr,
    PDL: tl.constexpr,
):
    """One row; each warp computes an output."""
    column = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_column = column < outputs
    prefetch_and_wait(weight, column, outputs, inputs, SWIGLU, LINES, LINE, PDL)
    product = tl.zeros((OUTPUTS, INPUTS), tl.float32)
    up = tl.zeros((OUTPUTS, INPUTS), tl.float32)
    squares = tl.zeros((INPUTS,), tl.float32)
    for first in tl.range(0, inputs, INPUTS, loop_unroll_factor=UNROLL):
        i = first + tl.arange(0, INPUTS)
        is_input = i < inputs
        a = tl.load(x + i, mask=is_input, other=0.0).to(tl.float32)
        if NORM:
            squares += a * a
        places = weight + column[:, None] * inputs + i[None, :]
        inside = is_column[:, None] & is_input[None, :]
        product += a[None, :] * tl.load(places, mask=inside, other=0.0).to(tl.float32)
        if SWIGLU:
            up += a[None, :] * tl.load(places + outputs * inputs, mask=inside, other=0.0).to(tl.float32)
    one = tl.sum(product, axis=1)[None, :]
    second = tl.sum(up, axis=1)[None, :]
    length = tl.sum(squares, axis=0)[None]
    one = finish(one, second, length, inputs, eps, scale, column, is_column, outputs, NORM, SWIGLU, QUANTISED)
    if RESIDUAL:
        one += tl.load(residual + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    tl.store(out + column[None, :], one.to(out.dtype.element_ty), mask=is_column[None, :])


@dataclass(frozen=True)
class LinearTiles:
    """Tiles of a product: each program computes `rows` x `outputs` of it, `inputs` at a time."""

    rows: int
    outputs: int
    inputs: int
    weights_left: bool = False


WIDE = LinearTiles(rows=64, outputs=128, inputs=64, weights_left=True)
"""For `Choices.products` wide."""
GEMV_OUTPUTS, GEMV_UNROLL = 4, 4
"""Outputs of a program of four warps; tiles of weights that are on their way at once."""


def linear_tiles(rows: int) -> LinearTiles:
    """For few rows the tiles are narrow, so that even the narrowest matrix (1536 outputs) keeps 96 programs busy, and
    the prefetch is deep: 16 x 256 x 2 bytes x 3 stages are 24 KiB a program, and 16 KiB an SM hide 0.7 us at 3 TB/s."""
    if rows <= 16:
        return LinearTiles(rows=16, outputs=16, inputs=256)
    if rows <= 32:
        return LinearTiles(rows=32, outputs=32, inputs=128)
    return LinearTiles(rows=64, outputs=64, inputs=64)


def linear(
    x: Tensor,
    matrix: Matrix,
    norm_eps: float | None = None,
    swiglu: bool = False,
    residual: Tensor | None = None,
    choices: Choices = Choices(),
) -> Tensor:
    """See `plain.linear`."""
    rows, inputs = x.shape
    many = rows >= MANY_ROWS if choices.products == "library" else rows > MANY_ROWS and choices.products == "tiles"
    if many and matrix.scale is None:
        return plain.linear(x, matrix, norm_eps, swiglu, residual)
    outputs = matrix.weight.shape[0] // (2 if swiglu else 1)
    out = x.new_empty(rows, outputs)
    size = matrix.weight.itemsize
    tensors = (
        x,
        matrix.weight,
        matrix.scale if matrix.scale is not None else x,
        residual if residual is not None else x,
        out,
    )
    options = dict(
        NORM=norm_eps is not None,
        SWIGLU=swiglu,
        RESIDUAL=residual is not None,
        QUANTISED=matrix.scale is not None,
        LINES=PREFETCHED // LINE,
        LINE=LINE // size,
        num_warps=4,
        **pdl_options(choices),
    )
    if rows == 1 and choices.gemv:
        gemv_kernel[(triton.cdiv(outputs, GEMV_OUTPUTS),)](
            *tensors,
            outputs,
            inputs,
            norm_eps or 0.0,
            OUTPUTS=GEMV_OUTPUTS,
            INPUTS=512 // size,  # 16 bytes for each thread of a warp
            UNROLL=1 if INTERPRETED else GEMV_UNROLL,
            **options,
        )
        return out
    tiles = WIDE if rows >= MANY_ROWS and choices.products == "wide" else linear_tiles(rows)
    grid = (triton.cdiv(outputs, tiles.outputs), triton.cdiv(rows, tiles.rows))
    linear_kernel[grid](
        *tensors,
        rows,
        outputs,
        inputs,
        norm_eps or 0.0,
        ROWS=tiles.rows,
        OUTPUTS=tiles.outputs,
        INPUTS=min(tiles.inputs, tile(inputs)),
        WEIGHTS_LEFT=tiles.weights_left,
        DOT=dot_type(x.dtype),
        num_stages=4,
        **options,
    )
    return out
