"""The depth decoder's attention in one kernel. Its positions, at most 32, fit into one tile, so a program rotates,
caches the new keys and values, and attends, for one row and one key head."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from misotts.engines.graph.choices import Choices
from misotts.engines.graph.kernels.launch import dot_type, pdl_options, tile, wait_for_previous


@triton.jit(do_not_specialize=["first"])
def depth_attention_kernel(
    qkv,
    keys,
    values,
    cos,
    sin,
    out,
    first,
    softmax_scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    NEW: tl.constexpr,
    POSITIONS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    DOT: tl.constexpr,
    PDL: tl.constexpr,
):
    wait_for_previous(PDL)
    row, kv_head = tl.program_id(0), tl.program_id(1)
    shared: tl.constexpr = HEADS // KV_HEADS
    stride: tl.constexpr = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    d = tl.arange(0, WIDTH)
    is_d = d < HEAD_DIM
    other_half = (d + HEAD_DIM // 2) % HEAD_DIM

    r = tl.arange(0, ROWS)
    step, head = r // shared, kv_head * shared + r % shared
    inside = (step < NEW)[:, None] & is_d[None, :]
    start = qkv + ((row * NEW + step) * stride + head * HEAD_DIM)[:, None]
    angle = (first + step)[:, None] * HEAD_DIM + d[None, :]
    query = tl.load(start + d[None, :], mask=inside, other=0.0).to(tl.float32)
    query *= tl.load(cos + angle, mask=inside, other=0.0)
    turned = tl.load(start + other_half[None, :], mask=inside, other=0.0).to(tl.float32)
    query += turned * tl.load(sin + angle, mask=inside, other=0.0)

    t = tl.arange(0, KEYS)
    fresh = ((t >= first) & (t < first + NEW))[:, None] & is_d[None, :]
    kept = (t < first)[:, None] & is_d[None, :]
    source = qkv + ((row * NEW + t - first) * stride + (HEADS + kv_head) * HEAD_DIM)[:, None]
    angle = t[:, None] * HEAD_DIM + d[None, :]
    place = (((row * KV_HEADS + kv_head) * POSITIONS + t) * HEAD_DIM)[:, None] + d[None, :]
    new_key = tl.load(source + d[None, :], mask=fresh, other=0.0).to(tl.float32)
    new_key *= tl.load(cos + angle, mask=fresh, other=0.0)
    turned = tl.load(source + other_half[None, :], mask=fresh, other=0.0).to(tl.float32)
    new_key += turned * tl.load(sin + angle, mask=fresh, other=0.0)
    new_value = tl.load(source + KV_HEADS * HEAD_DIM + d[None, :], mask=fresh, other=0.0)
    rounded = new_key.to(keys.dtype.element_ty)
    key = tl.where(fresh, rounded, tl.load(keys + place, mask=kept, other=0.0))
    value = tl.where(fresh, new_value, tl.load(values + place, mask=kept, other=0.0))
    tl.store(keys + place, rounded, mask=fresh)
    tl.store(values + place, new_value, mask=fresh)

    query = query.to(keys.dtype.element_ty).to(DOT)
    score = tl.dot(query, tl.trans(key.to(DOT)), input_precision="ieee") * softmax_scale
    score = tl.where(t[None, :] <= (first + step)[:, None], score, float("-inf"))
    weight = tl.exp(score - tl.max(score, axis=1)[:, None])
    attended = tl.dot(weight.to(DOT), value.to(DOT), input_precision="ieee") / tl.sum(weight, axis=1)[:, None]
    target = out + ((row * NEW + step) * HEADS + head)[:, None] * HEAD_DIM + d[None, :]
    tl.store(target, attended.to(out.dtype.element_ty), mask=inside)


def depth_attention(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    cos: Tensor,
    sin: Tensor,
    first: int,
    choices: Choices = Choices(),
) -> Tensor:
    """See `plain.depth_attention`."""
    rows, kv_heads, positions, head_dim = keys.shape
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    new = len(qkv) // rows
    out = qkv.new_empty(len(qkv), heads * head_dim)
    depth_attention_kernel[(rows, kv_heads)](
        qkv,
        keys,
        values,
        cos,
        sin,
        out,
        first,
        head_dim**-0.5,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        NEW=new,
        POSITIONS=positions,
        ROWS=tile(new * (heads // kv_heads)),
        WIDTH=tile(head_dim),
        KEYS=tile(positions),
        DOT=dot_type(qkv.dtype),
        num_warps=4,
        **pdl_options(choices),
    )
    return out
