"""RoPE and the write into the KV pool in one kernel, with a program for each head of each row."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from misotts.engines.graph.choices import Choices
from misotts.engines.graph.kernels.launch import pdl_options, wait_for_previous
from misotts.engines.graph.plain import LARGEST_KV, LayerCache


@triton.jit
def rope_and_cache_kernel(
    qkv,
    cos,
    sin,
    positions,
    kv_index,
    keys,
    values,
    scales,
    q,
    scales_each,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    QUANTISED: tl.constexpr,
    LARGEST: tl.constexpr,
    PDL: tl.constexpr,
):
    wait_for_previous(PDL)
    row, head = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, WIDTH)
    inside = d < HEAD_DIM
    start = qkv + (row * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM
    x = tl.load(start + d, mask=inside, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:
        angle = tl.load(positions + row) * HEAD_DIM + d
        other_half = tl.load(start + (d + HEAD_DIM // 2) % HEAD_DIM, mask=inside, other=0.0).to(tl.float32)
        x = x * tl.load(cos + angle, mask=inside, other=0.0)
        x += other_half * tl.load(sin + angle, mask=inside, other=0.0)
    if head < HEADS:
        tl.store(q + (row * HEADS + head) * HEAD_DIM + d, x.to(q.dtype.element_ty), mask=inside)
    else:
        is_value = head >= HEADS + KV_HEADS
        kv_head = head - HEADS - is_value.to(tl.int32) * KV_HEADS
        index = tl.load(kv_index + row)
        place = (index // BLOCK_SIZE * KV_HEADS + kv_head) * BLOCK_SIZE + index % BLOCK_SIZE
        if QUANTISED:
            # The key is rounded to the activations' type first, as it is without FP8.
            x = x.to(q.dtype.element_ty).to(tl.float32)
            scale = tl.maximum(tl.max(tl.abs(x)), 1e-12) / LARGEST
            tl.store(scales + is_value.to(tl.int64) * scales_each + place, scale)
            x = x / scale
        if is_value:
            tl.store(values + place * HEAD_DIM + d, x.to(values.dtype.element_ty), mask=inside)
        else:
            tl.store(keys + place * HEAD_DIM + d, x.to(keys.dtype.element_ty), mask=inside)


def rope_and_cache(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    kv_index: Tensor,
    cache: LayerCache,
    choices: Choices = Choices(),
) -> Tensor:
    """See `plain.rope_and_cache`."""
    _, kv_heads, block_size, head_dim = cache.keys.shape
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    q = qkv.new_empty(len(qkv), heads, head_dim)
    scales = cache.scales
    rope_and_cache_kernel[(len(qkv), heads + 2 * kv_heads)](
        qkv,
        cos,
        sin,
        positions,
        kv_index,
        cache.keys,
        cache.values,
        scales if scales is not None else cos,
        q,
        scales[0].numel() if scales is not None else 0,
        HEADS=heads,
        KV_HEADS=kv_heads,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        WIDTH=triton.next_power_of_2(head_dim),
        QUANTISED=scales is not None,
        LARGEST=LARGEST_KV,
        num_warps=1,
        **pdl_options(choices),
    )
    return q
