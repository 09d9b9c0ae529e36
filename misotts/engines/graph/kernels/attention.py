"""Paged attention, for single positions and for prefill chunks (flash attention's running softmax over the blocks).

A program computes a tile of consecutive positions of one sequence for one key head. The query heads that share it are
rows of one product, so a block is read once for all of them. A step without prefill has tiles of one position. If there
are few programs, the keys are split among several, and a second kernel combines their parts. Each program derives its
blocks from the sequence's length, so that a captured launch fits any length.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from misotts.engines.graph.choices import Choices
from misotts.engines.graph.kernels.launch import dot_type, pdl_options, tile, wait_for_previous
from misotts.engines.graph.plain import LayerCache, Tiles

MAX_SPLITS = 16


@triton.jit
def paged_attention_kernel(
    q,
    keys,
    values,
    scales,
    tables,
    sequences,
    first_rows,
    first_positions,
    counts,
    out,
    part_out,
    part_largest,
    part_total,
    columns,
    scales_each,
    softmax_scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    SPLITS: tl.constexpr,
    QUANTISED: tl.constexpr,
    DOT: tl.constexpr,
    PDL: tl.constexpr,
):
    wait_for_previous(PDL)
    tile_index, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    shared: tl.constexpr = HEADS // KV_HEADS
    count = tl.load(counts + tile_index)
    first_position = tl.load(first_positions + tile_index)
    table = tables + tl.load(sequences + tile_index) * columns
    r = tl.arange(0, ROWS)
    step, head = r // shared, kv_head * shared + r % shared
    is_row = step < count
    position = first_position + step
    d = tl.arange(0, WIDTH)
    is_d = d < HEAD_DIM
    place = ((tl.load(first_rows + tile_index) + step) * HEADS + head)[:, None] * HEAD_DIM + d[None, :]
    inside = is_row[:, None] & is_d[None, :]
    query = tl.load(q + place, mask=inside, other=0.0).to(DOT)

    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    attended = tl.zeros((ROWS, WIDTH), tl.float32)
    blocks = tl.cdiv(first_position + count, BLOCK_SIZE)
    share = tl.cdiv(blocks, SPLITS)
    for column in range(split * share, tl.minimum(blocks, (split + 1) * share)):
        block = tl.load(table + column).to(tl.int64)
        t = tl.arange(0, KEYS)
        is_key = t < BLOCK_SIZE
        index = (block * KV_HEADS + kv_head) * BLOCK_SIZE + t
        key = tl.load(keys + index[None, :] * HEAD_DIM + d[:, None], mask=is_key[None, :] & is_d[:, None], other=0.0)
        score = tl.dot(query, key.to(DOT), input_precision="ieee") * softmax_scale
        if QUANTISED:
            score *= tl.load(scales + index, mask=is_key, other=0.0)[None, :]
        seen = is_key[None, :] & (column * BLOCK_SIZE + t[None, :] <= position[:, None])
        score = tl.where(seen, score, float("-inf"))
        now = tl.maximum(largest, tl.max(score, axis=1))
        # A row that has seen no key yet has no largest score; any number serves in its place.
        base = tl.where(now == float("-inf"), 0.0, now)
        weight = tl.exp(score - base[:, None])
        fade = tl.exp(largest - base)
        total = total * fade + tl.sum(weight, axis=1)
        value = tl.load(
            values + index[:, None] * HEAD_DIM + d[None, :], mask=is_key[:, None] & is_d[None, :], other=0.0
        )
        if QUANTISED:
            weight *= tl.load(scales + scales_each + index, mask=is_key, other=0.0)[None, :]
        attended = attended * fade[:, None] + tl.dot(weight.to(DOT), value.to(DOT), input_precision="ieee")
        largest = now
    if SPLITS == 1:
        attended = attended / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(out + place, attended.to(out.dtype.element_ty), mask=inside)
    else:
        part = (tile_index * HEADS + head) * SPLITS + split
        tl.store(part_out + part[:, None] * HEAD_DIM + d[None, :], attended, mask=inside)
        tl.store(part_largest + part, largest, mask=is_row)
        tl.store(part_total + part, total, mask=is_row)


@triton.jit
def combine_kernel(
    part_out,
    part_largest,
    part_total,
    out,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    PDL: tl.constexpr,
):
    wait_for_previous(PDL)
    head = tl.program_id(0)
    split, d = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    is_d = d < HEAD_DIM
    largest = tl.load(part_largest + head * SPLITS + split)
    weight = tl.exp(largest - tl.max(largest))
    total = tl.sum(weight * tl.load(part_total + head * SPLITS + split))
    parts = tl.load(part_out + (head * SPLITS + split)[:, None] * HEAD_DIM + d[None, :], mask=is_d[None, :], other=0.0)
    attended = tl.sum(parts * weight[:, None], axis=0) / total
    tl.store(out + head * HEAD_DIM + d, attended.to(out.dtype.element_ty), mask=is_d)


def splits_for(tile_count: int, kv_heads: int, programs: int) -> int:
    """Number of parts into which the keys of a tile of one position are split, a power of 2 that makes `programs`."""
    return min(MAX_SPLITS, int(triton.next_power_of_2(triton.cdiv(programs, tile_count * kv_heads))))


def paged_attention(q: Tensor, cache: LayerCache, tables: Tensor, tiles: Tiles, choices: Choices = Choices()) -> Tensor:
    """See `plain.paged_attention`; rows that are in no tile are not written. If tiles have one position, tile n is row
    n of q."""
    rows, heads, head_dim = q.shape
    _, kv_heads, block_size, _ = cache.keys.shape
    tile_count = len(tiles.sequence)
    splits = splits_for(tile_count, kv_heads, choices.programs) if tiles.longest == 1 else 1
    out = q.new_empty(rows, heads * head_dim)
    part_out = q.new_empty(tile_count, heads, splits, head_dim, dtype=torch.float32) if splits > 1 else out
    part_largest, part_total = (
        q.new_empty(2, tile_count, heads, splits, dtype=torch.float32) if splits > 1 else (out, out)
    )
    scales = cache.scales
    paged_attention_kernel[(tile_count, kv_heads, splits)](
        q,
        cache.keys,
        cache.values,
        scales if scales is not None else q,
        tables,
        tiles.sequence,
        tiles.first_row,
        tiles.first_position,
        tiles.count,
        out,
        part_out,
        part_largest,
        part_total,
        tables.shape[1],
        scales[0].numel() if scales is not None else 0,
        head_dim**-0.5,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        ROWS=tile(tiles.longest * (heads // kv_heads)),
        WIDTH=tile(head_dim),
        KEYS=tile(block_size),
        SPLITS=splits,
        QUANTISED=scales is not None,
        DOT=dot_type(q.dtype),
        num_warps=4,
        num_stages=3,
        **pdl_options(choices),
    )
    if splits > 1:
        combine_kernel[(tile_count * heads,)](
            part_out,
            part_largest,
            part_total,
            out,
            HEAD_DIM=head_dim,
            WIDTH=triton.next_power_of_2(head_dim),
            SPLITS=splits,
            num_warps=1,
            **pdl_options(choices),
        )
    return out
