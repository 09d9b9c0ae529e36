"""Top-k sampling without sorting: a code's rank is the number of likelier codes, counted by comparing all codes with
all (4 million comparisons a row, spread over programs of 64 codes). The rank selects the code's noise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CODES = 64
"""Number of codes that one program ranks."""
OTHERS = 256
"""Number of codes with which these are compared at a time."""


@triton.jit
def score_kernel(logits, temperature, top_k, noise, best, codes, noise_row, CODES: tl.constexpr, OTHERS: tl.constexpr):
    """Store the best score among a program's codes, with the code in its low bits."""
    row = tl.program_id(0)
    code = tl.program_id(1) * CODES + tl.arange(0, CODES)
    is_code = code < codes
    value = tl.load(logits + row * codes + code, mask=is_code, other=float("-inf")).to(tl.float32)
    rank = tl.zeros((CODES,), tl.int32)
    for first in range(0, codes, OTHERS):
        other = first + tl.arange(0, OTHERS)
        other_value = tl.load(logits + row * codes + other, mask=other < codes, other=float("-inf"))
        other_value = other_value.to(tl.float32)[None, :]
        tie = (other_value == value[:, None]) & (other[None, :] < code[:, None])
        rank += tl.sum(((other_value > value[:, None]) | tie).to(tl.int32), axis=1)
    is_candidate = is_code & (rank < tl.load(top_k + row))
    score = tl.div_rn(value, tl.load(temperature + row))
    score += tl.load(noise + row * noise_row + rank, mask=is_candidate, other=0.0)
    # The bits of floats are ordered like integers if those of negative ones are inverted.
    bits = score.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = (order.to(tl.int64) << 32) | (codes - code).to(tl.int64)
    lowest = -(1 << 63)
    tl.store(best + row * tl.num_programs(1) + tl.program_id(1), tl.max(tl.where(is_candidate, key, lowest)))


@triton.jit
def select_kernel(
    best, table, sampled, out, codes, parts, width, WITH_TABLE: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr
):
    """Store the code with the best score of all parts, and its row of the table."""
    row = tl.program_id(0)
    part = tl.arange(0, PARTS)
    winner = tl.max(tl.load(best + row * parts + part, mask=part < parts, other=-(1 << 63)))
    code = codes - (winner & 0x7FFFFFFF)
    tl.store(sampled + row, code)
    if WITH_TABLE:
        column = tl.arange(0, WIDTH)
        inside = column < width
        tl.store(out + row * width + column, tl.load(table + code * width + column, mask=inside), mask=inside)


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor, table: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """See `plain.sample`."""
    rows, codes = logits.shape
    parts = triton.cdiv(codes, CODES)
    best = logits.new_empty(rows, parts, dtype=torch.int64)
    score_kernel[(rows, parts)](
        logits, temperature, top_k, noise, best, codes, noise.stride(0), CODES=CODES, OTHERS=OTHERS, num_warps=4
    )
    sampled = best.new_empty(rows)
    width = 1 if table is None else table.shape[1]
    out = None if table is None else table.new_empty(rows, width)
    select_kernel[(rows,)](
        best,
        sampled if table is None else table,
        sampled,
        sampled if out is None else out,
        codes,
        parts,
        width,
        WITH_TABLE=table is not None,
        PARTS=triton.next_power_of_2(parts),
        WIDTH=triton.next_power_of_2(width),
        num_warps=4,
    )
    return sampled, out
