"""Top-k sampling without sorting: a code's rank is the number of likelier codes, counted by comparing all codes with
all (4 million comparisons a row, spread over programs of 64 codes). The rank selects the code's noise. With many rows
one program a row can sort faster (`Choices.one_pass`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from misotts.engines.graph.choices import Choices
from misotts.engines.graph.kernels.launch import pdl_options, wait_for_previous

CODES = 64
"""Number of codes that one program ranks."""
OTHERS = 256
"""Number of codes with which these are compared at a time."""
ONE_PASS_RANKS = 64
"""Most ranks that one program sorts out."""
LOWEST = tl.constexpr(-(1 << 63))
"""The key of no code."""


@triton.jit
def likeliest_first(value, code, codes):
    """Keys, int64, of which the largest is that of the largest value and, among these, of the lowest code."""
    # The bits of floats are ordered like integers if those of negative ones are inverted.
    bits = value.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (order.to(tl.int64) << 32) | (codes - code).to(tl.int64)


@triton.jit
def store_code(code, table, sampled, out, row, width, WITH_TABLE: tl.constexpr, WIDTH: tl.constexpr):
    """Store the code of a row of logits, and the code's row of the table."""
    tl.store(sampled + row, code)
    if WITH_TABLE:
        column = tl.arange(0, WIDTH)
        inside = column < width
        tl.store(out + row * width + column, tl.load(table + code * width + column, mask=inside), mask=inside)


@triton.jit
def score_kernel(
    logits,
    temperature,
    top_k,
    noise,
    best,
    codes,
    noise_row,
    CODES: tl.constexpr,
    OTHERS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the best score among a program's codes, with the code in its low bits."""
    wait_for_previous(PDL)
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
    key = tl.where(is_candidate, likeliest_first(score, code, codes), LOWEST)
    tl.store(best + row * tl.num_programs(1) + tl.program_id(1), tl.max(key))


@triton.jit
def select_kernel(
    best,
    table,
    sampled,
    out,
    codes,
    parts,
    width,
    WITH_TABLE: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the code with the best score of all parts, and its row of the table."""
    wait_for_previous(PDL)
    row = tl.program_id(0)
    part = tl.arange(0, PARTS)
    winner = tl.max(tl.load(best + row * parts + part, mask=part < parts, other=-(1 << 63)))
    code = codes - (winner & 0x7FFFFFFF)
    store_code(code, table, sampled, out, row, width, WITH_TABLE, WIDTH)


@triton.jit
def one_pass_kernel(
    logits,
    temperature,
    top_k,
    noise,
    table,
    sampled,
    out,
    codes,
    width,
    noise_row,
    CODES: tl.constexpr,
    RANKS: tl.constexpr,
    WITH_TABLE: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """Sort out the likeliest codes of a row, and store the one with the best score, and its row of the table."""
    wait_for_previous(PDL)
    row = tl.program_id(0)
    code = tl.arange(0, CODES)
    is_code = code < codes
    value = tl.load(logits + row * codes + code, mask=is_code, other=float("-inf")).to(tl.float32)
    key = tl.topk(tl.where(is_code, likeliest_first(value, code, codes), LOWEST), RANKS)
    order = (key >> 32).to(tl.int32)
    value = (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    rank = tl.arange(0, RANKS)
    is_candidate = rank < tl.minimum(tl.load(top_k + row), codes)
    score = tl.div_rn(value, tl.load(temperature + row))
    score += tl.load(noise + row * noise_row + rank, mask=is_candidate, other=0.0)
    winner = tl.argmax(tl.where(is_candidate, score, float("-inf")), axis=0)
    best = codes - tl.sum(tl.where(rank == winner, (key & 0x7FFFFFFF).to(tl.int32), 0))
    store_code(best, table, sampled, out, row, width, WITH_TABLE, WIDTH)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    noise: Tensor,
    table: Tensor | None,
    choices: Choices = Choices(),
) -> tuple[Tensor, Tensor | None]:
    """See `plain.sample`."""
    rows, codes = logits.shape
    sampled = torch.empty(rows, dtype=torch.int64, device=logits.device)
    width = 1 if table is None else table.shape[1]
    out = None if table is None else table.new_empty(rows, width)
    rows_of_table = dict(WITH_TABLE=table is not None, WIDTH=triton.next_power_of_2(width))
    results = sampled if table is None else table, sampled, sampled if out is None else out, codes
    ranks = noise.shape[1]
    if choices.one_pass and ranks <= ONE_PASS_RANKS:
        one_pass_kernel[(rows,)](
            logits,
            temperature,
            top_k,
            noise,
            *results,
            width,
            noise.stride(0),
            CODES=triton.next_power_of_2(codes),
            RANKS=triton.next_power_of_2(min(ranks, codes)),
            **rows_of_table,
            num_warps=4,
            **pdl_options(choices),
        )
        return sampled, out
    parts = triton.cdiv(codes, CODES)
    best = sampled.new_empty(rows, parts)
    score_kernel[(rows, parts)](
        logits,
        temperature,
        top_k,
        noise,
        best,
        codes,
        noise.stride(0),
        CODES=CODES,
        OTHERS=OTHERS,
        num_warps=4,
        **pdl_options(choices),
    )
    select_kernel[(rows,)](
        best,
        *results,
        parts,
        width,
        PARTS=triton.next_power_of_2(parts),
        **rows_of_table,
        num_warps=4,
        **pdl_options(choices),
    )
    return sampled, out
