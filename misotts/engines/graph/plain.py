"""The operations in plain PyTorch: the reference of the kernels, and the graph engine's operations on the CPU.

Every function allocates its result, during capture from the graph's own memory, which the graph keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from misotts.engines.eight_bits import LARGEST
from misotts.engines.graph.matrix import Matrix
from misotts.engines.transformer import rotate

QUANTISED_KV = torch.float8_e4m3fn
LARGEST_KV = LARGEST["fp8"]


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values in the pool."""

    keys: Tensor
    """[blocks, kv_heads, block_size, head_dim], the activations' type or float8_e4m3fn; rotated."""
    values: Tensor
    scales: Tensor | None
    """float32 [2, blocks, kv_heads, block_size] if keys and values are FP8: the scale of each key, then of each value;
    real = stored x scale."""


@dataclass(frozen=True)
class Tiles:
    """Tiles of consecutive positions of one sequence, which share one read of their keys. int32 [tiles] each,
    on the device."""

    sequence: Tensor
    """Row of the sequence in the block tables."""
    first_row: Tensor
    """First packed row of the tile."""
    first_position: Tensor
    count: Tensor
    """Positions of the tile."""
    longest: int
    """Largest `count` that a tile may have."""


def linear(
    x: Tensor, matrix: Matrix, norm_eps: float | None = None, swiglu: bool = False, residual: Tensor | None = None
) -> Tensor:
    """x [rows, inputs] times the matrix → [rows, outputs].

    `norm_eps`: x is first divided by the root of its mean square plus this. `swiglu`: the matrix is gate above up, and
    the result is silu(gate) * up, half as wide. `residual`: is added to the result.
    """
    if norm_eps is not None:
        x = F.rms_norm(x, x.shape[-1:], None, norm_eps)
    if matrix.scale is None:
        x = F.linear(x, matrix.weight)
    else:
        x = (F.linear(x, matrix.weight.to(x.dtype)).float() * matrix.scale).to(x.dtype)
    if swiglu:
        gate, up = x.chunk(2, dim=-1)
        x = F.silu(gate) * up
    return x if residual is None else x + residual


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """x [rows, width] / sqrt(mean(x²) + eps) * scale."""
    return F.rms_norm(x, x.shape[-1:], scale, eps)


def rope_and_cache(
    qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, kv_index: Tensor, cache: LayerCache
) -> Tensor:
    """Rotate q and k of qkv [rows, (heads + 2 kv_heads) * head_dim], write k and v into the pool, return q [rows,
    heads, head_dim].

    cos, sin: the tables of `rope_table`, float32 [all positions, head_dim]. positions int64 [rows]. kv_index int64
    [rows]: block * block_size + offset.
    """
    _, kv_heads, block_size, head_dim = cache.keys.shape
    x = qkv.view(len(qkv), -1, head_dim)
    qk, v = x.split([x.shape[1] - kv_heads, kv_heads], dim=1)
    qk = rotate(qk.float(), cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)).to(qkv.dtype)
    q, k = qk[:, :-kv_heads], qk[:, -kv_heads:]
    blocks, offsets = kv_index // block_size, kv_index % block_size
    for n, (pool, new) in enumerate(((cache.keys, k), (cache.values, v))):
        if cache.scales is None:
            pool[blocks, :, offsets] = new
            continue
        scale = new.float().abs().amax(dim=-1).clamp(min=1e-12) / LARGEST_KV
        rounded = (new.float() / scale.unsqueeze(-1)).to(QUANTISED_KV)
        # As bytes: PyTorch has no indexed writes of FP8 on the CPU.
        pool.view(torch.uint8)[blocks, :, offsets] = rounded.view(torch.uint8)
        cache.scales[n][blocks, :, offsets] = scale
    return q.contiguous()


def paged_attention(q: Tensor, cache: LayerCache, tables: Tensor, tiles: Tiles) -> Tensor:
    """Causal attention of q [rows, heads, head_dim] over the sequences' blocks, with the rows' own keys → [rows,
    heads * head_dim]. tables: int32 [sequences, columns]. Rows that are in no tile stay zero."""
    rows, heads, head_dim = q.shape
    kv_heads = cache.keys.shape[1]
    steps = torch.arange(tiles.longest, device=q.device)
    row = tiles.first_row.unsqueeze(1) + steps  # [tiles, longest]
    outside = steps >= tiles.count.unsqueeze(1)
    position = tiles.first_position.unsqueeze(1) + steps
    blocks = tables[tiles.sequence.long()].long()  # [tiles, columns]
    keys, values = (_gather(cache, n, blocks, q.dtype) for n in range(2))  # [tiles, kv_heads, positions, head_dim]
    queries = q[row.clamp(max=rows - 1)].transpose(1, 2)  # [tiles, heads, longest, head_dim]
    key = torch.arange(keys.shape[2], device=q.device)
    seen = key <= position.unsqueeze(-1)
    attended = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=seen.unsqueeze(1), enable_gqa=heads != kv_heads
    )
    # The additional row takes the queries beyond a tile's end.
    out = q.new_zeros(rows + 1, heads * head_dim)
    out[row.masked_fill(outside, rows)] = attended.transpose(1, 2).flatten(2)
    return out[:rows]


def _gather(cache: LayerCache, n: int, blocks: Tensor, dtype: torch.dtype) -> Tensor:
    pool = (cache.keys, cache.values)[n]
    if cache.scales is None:
        found = pool[blocks]
    else:
        stored = pool.view(torch.uint8)[blocks].view(QUANTISED_KV).float()
        found = (stored * cache.scales[n][blocks].unsqueeze(-1)).to(dtype)
    return found.transpose(1, 2).flatten(2, 3)


def depth_attention(qkv: Tensor, keys: Tensor, values: Tensor, cos: Tensor, sin: Tensor, first: int) -> Tensor:
    """The depth decoder's attention: rotate q and k, cache k and v, attend.

    qkv [rows * new, (heads + 2 kv_heads) * head_dim]: the positions of each row from `first` on. keys, values [rows,
    kv_heads, codebooks, head_dim]: the cache, into which the new ones are written. → [rows * new, heads * head_dim].
    """
    rows, kv_heads, _, head_dim = keys.shape
    new = len(qkv) // rows
    last = first + new
    x = qkv.view(rows, new, -1, head_dim)
    qk, v = x.split([x.shape[2] - kv_heads, kv_heads], dim=2)
    qk = rotate(qk.float(), cos[first:last].unsqueeze(1), sin[first:last].unsqueeze(1)).to(qkv.dtype)
    q, k = qk.split([x.shape[2] - 2 * kv_heads, kv_heads], dim=2)
    keys[:, :, first:last] = k.transpose(1, 2)
    values[:, :, first:last] = v.transpose(1, 2)
    attended = F.scaled_dot_product_attention(
        q.transpose(1, 2), keys[:, :, :last], values[:, :, :last], is_causal=new > 1, enable_gqa=True
    )
    return attended.transpose(1, 2).reshape(len(qkv), -1)


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor, table: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Sample a code for each row of logits → codes int64 [n], and their rows of table [codes, width], if there is one.

    Like `misotts.engines.sampling.sample`, except that equally likely codes are ranked by number. noise [n, ranks] may
    be a slice of a larger tensor.
    """
    values, codes = logits.float().sort(dim=-1, descending=True, stable=True)
    ranks = noise.shape[1]
    score = values[:, :ranks] / temperature.unsqueeze(1) + noise
    dropped = torch.arange(ranks, device=logits.device) >= top_k.unsqueeze(1)
    winner = score.masked_fill(dropped, -torch.inf).argmax(dim=-1, keepdim=True)
    sampled = codes.gather(1, winner).squeeze(1)
    return sampled, None if table is None else table.index_select(0, sampled)


def embed_frames(codes: Tensor, table: Tensor, vocabulary: int) -> Tensor:
    """Sum the embeddings of codes [n, codebooks] over the codebooks; table [codebooks * vocabulary, width]."""
    return F.embedding_bag(codes + torch.arange(codes.shape[1], device=codes.device) * vocabulary, table, mode="sum")
