"""The backbone in plain PyTorch, with keys and values in a pool of blocks: the reference of every other engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from misotts.config import ModelConfig
from misotts.engines.eager.layers import RMSNorm, load_layers, pad_rows, stable_rows
from misotts.engines.interface import Batch
from misotts.engines.transfer import to_device
from misotts.engines.transformer import rope_table
from misotts.model.weight_files import Weights

KEY_TILE = 128
"""Attention sums over keys in tiles of this many positions, in order, so that the padding to another sequence's length
cannot change an utterance's last bits. A multiple of the block size."""

QUERY_TILE = 16
"""Rows of queries are padded to a multiple of this, for the same reason."""

Indices = npt.NDArray[np.int64]


class TorchBackbone:
    """A Llama-style transformer of any size over packed sequences."""

    def __init__(
        self,
        weights: Weights,
        config: ModelConfig,
        num_blocks: int,
        block_size: int = 32,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Read the weights and allocate the pool: layers x 2 x `num_blocks` x KV heads x block x head size, zeros."""
        self.config = config.backbone
        self.num_blocks, self.block_size = num_blocks, block_size
        self._layers = load_layers(weights, "backbone", self.config, device, dtype)
        self._row_tile = stable_rows(self._layers[0].matrices)
        self._norm = RMSNorm(weights["backbone.norm.scale"].to(device=device, dtype=dtype), self.config.norm_eps)
        self._cos, self._sin = (t.to(device) for t in rope_table(self.config, config.max_seq_len))
        c = self.config
        shape = (c.num_layers, 2, num_blocks, c.num_kv_heads, block_size, c.head_dim)
        self._pool = torch.zeros(shape, device=device, dtype=dtype)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See `Backbone.forward`."""
        plan = _Plan(batch, self.block_size, self._row_tile)
        x = pad_rows(batch.inputs, self._row_tile)
        cos = self._cos[plan.positions].unsqueeze(1).to(x.dtype)
        sin = self._sin[plan.positions].unsqueeze(1).to(x.dtype)
        for layer, (keys, values) in zip(self._layers, self._pool, strict=True):
            q, k, v = layer.split_heads(x, cos, sin, self.config)
            keys[plan.write_blocks, :, plan.write_offsets] = k
            values[plan.write_blocks, :, plan.write_offsets] = v
            x = layer.merge(x, self._attend(q, keys, values, plan))
        return self._norm(x[plan.last])

    def _attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: _Plan) -> torch.Tensor:
        """Attention of every packed row [rows, heads, head_dim] over its own sequence's blocks → [rows, width]."""
        out = q.new_zeros(q.shape[0], q.shape[1] * q.shape[2])
        for group in plan.groups:
            out[group.rows] = self._attend_group(q[group.rows], keys, values, group)
        return out

    def _attend_group(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, group: _Group) -> torch.Tensor:
        n, tiles = group.table.shape[0], group.tiles
        heads, head_dim = self.config.num_kv_heads, self.config.head_dim
        shared = self.config.num_heads // heads
        # Query heads that share a key head become rows of one product.
        q = q.view(n, group.length, heads, shared, head_dim).permute(0, 2, 1, 3, 4).flatten(2, 3)
        rows = q.shape[2]
        q = F.pad(q, (0, 0, 0, -rows % QUERY_TILE)).unsqueeze(2)  # [n, heads, 1, rows, head_dim]

        def gather(pool: torch.Tensor) -> torch.Tensor:  # → [n, heads, tiles, KEY_TILE, head_dim]
            return pool[group.table].transpose(1, 2).reshape(n, heads, tiles, KEY_TILE, head_dim)

        scores = (q @ gather(keys).transpose(-1, -2)) * head_dim**-0.5
        mask = F.pad(group.hidden.repeat_interleave(shared, dim=2), (0, 0, 0, -rows % QUERY_TILE))
        scores = scores.masked_fill(mask.unsqueeze(1), -torch.inf).float()
        weight = (scores - scores.amax(dim=(2, 4), keepdim=True)).exp()
        total = _sum_tiles(weight.sum(dim=-1, keepdim=True))
        attended = _sum_tiles((weight.to(q.dtype) @ gather(values)).float()) / total
        attended = attended[:, :, :rows].to(q.dtype)
        return attended.view(n, heads, group.length, shared * head_dim).transpose(1, 2).reshape(n * group.length, -1)


def _sum_tiles(x: torch.Tensor) -> torch.Tensor:
    """Sum over the tiles (dimension 2) in order: trailing tiles of zeros do not change the bits."""
    return x.squeeze(2) if x.shape[2] == 1 else x.cumsum(dim=2)[:, :, -1]


class _Group:
    """Sequences with the same number of new positions; their attention is one batched product."""

    def __init__(self, batch: Batch, members: Indices, first_rows: Indices, block_size: int, device: torch.device):
        self.length = int(batch.lengths[members[0]])
        starts = batch.starts[members]
        self.tiles = -(-int(starts.max() + self.length) // KEY_TILE)
        columns = self.tiles * KEY_TILE // block_size
        table = np.zeros((len(members), columns), np.int64)
        used = min(columns, batch.blocks.shape[1])
        table[:, :used] = batch.blocks[members, :used]
        self.table = to_device(table, device)
        steps = np.arange(self.length)
        self.rows = to_device((first_rows[members, None] + steps).ravel(), device)
        position = to_device(starts[:, None] + steps, device)  # [n, length]
        key = torch.arange(self.tiles * KEY_TILE, device=device).view(self.tiles, 1, KEY_TILE)
        self.hidden = key > position[:, None, :, None]  # [n, tiles, length, KEY_TILE]


class _Plan:
    """Index tensors of one batch, the same for all layers."""

    def __init__(self, batch: Batch, block_size: int, row_tile: int) -> None:
        device = batch.inputs.device
        lengths, starts = batch.lengths.astype(np.int64), batch.starts.astype(np.int64)
        ends = lengths.cumsum()
        total = int(ends[-1])
        sequence = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(total) - np.repeat(ends - lengths, lengths) + starts[sequence]
        padding = -total % row_tile
        blocks = batch.blocks[sequence, position // block_size].astype(np.int64)
        self.positions = to_device(np.pad(position, (0, padding)), device)
        # Padding rows write into the scratch block.
        self.write_blocks = to_device(np.pad(blocks, (0, padding)), device)
        self.write_offsets = to_device(np.pad(position % block_size, (0, padding)), device)
        self.last = to_device(ends - 1, device)
        single = np.flatnonzero(lengths == 1)
        members = [single] if len(single) else []
        members += [np.array([n]) for n in np.flatnonzero(lengths > 1)]
        self.groups = [_Group(batch, m, ends - lengths, block_size, device) for m in members]
