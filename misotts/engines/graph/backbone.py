"""The backbone of the graph engine: one position of each sequence inside the graph, prefill chunks outside of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from misotts.config import ModelConfig
from misotts.engines.graph.layers import load_layers
from misotts.engines.graph.operations import Operations
from misotts.engines.graph.plain import QUANTISED_KV, LayerCache, Tiles
from misotts.engines.interface import Batch
from misotts.engines.table import KvType, WeightType
from misotts.engines.transfer import to_device
from misotts.engines.transformer import rope_table
from misotts.model.weight_files import Weights

PREFILL_TILE = 16
"""Positions of a prompt that share one read of their keys: with four query heads to a key head, 64 rows of a
product."""


@dataclass(frozen=True)
class Positions:
    """Positions of a step's packed rows, on the device."""

    position: torch.Tensor
    """int64 [rows]."""
    kv_index: torch.Tensor
    """int64 [rows]: block * block_size + offset of the row's key and value."""
    tables: torch.Tensor
    """int32 [sequences, columns]."""
    tiles: Tiles


class GraphBackbone:
    """See `Backbone`."""

    def __init__(
        self,
        weights: Weights,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        run: Operations,
        device: str = "cuda",
        dtype: torch.dtype = torch.bfloat16,
        weight_type: WeightType = "full",
        kv_type: KvType = "full",
    ) -> None:
        """Read the weights and allocate the pool: layers x 2 x `num_blocks` x KV heads x block x head size, zeros."""
        self.config = c = config.backbone
        self.num_blocks, self.block_size = num_blocks, block_size
        self.run = run
        """The kernels, which a benchmark may exchange."""
        self.layers = load_layers(weights, "backbone", c, device, dtype, weight_type)
        self._norm = weights["backbone.norm.scale"].to(device=device, dtype=dtype)
        self._cos, self._sin = (t.to(device) for t in rope_table(c, config.max_seq_len))
        shape = (c.num_layers, 2, num_blocks, c.num_kv_heads, block_size)
        kv_dtype = QUANTISED_KV if kv_type == "fp8" else dtype
        self._pool = torch.zeros(*shape, c.head_dim, device=device, dtype=kv_dtype)
        self._scales = torch.zeros(shape, device=device) if kv_type == "fp8" else None

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """See `Backbone.forward`."""
        lengths = batch.lengths.astype(np.int64)
        x = self.transform(batch.inputs, self._place(batch))
        return self.run.rms_norm(x[to_device(lengths.cumsum() - 1, x.device)], self._norm, self.config.norm_eps)

    def advance(self, x: torch.Tensor, starts: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        """Compute one position of each sequence, x [n, width] at positions `starts` int64 [n] → hidden [n, width],
        after the final norm. tables: int32 [n, columns]. Reads no value on the host."""
        column = (starts // self.block_size).unsqueeze(1)
        block = tables.gather(1, column).squeeze(1).long()
        rows = torch.arange(len(x), device=x.device, dtype=torch.int32)
        tiles = Tiles(rows, rows, starts.int(), torch.ones_like(rows), longest=1)
        where = Positions(starts, block * self.block_size + starts % self.block_size, tables, tiles)
        return self.run.rms_norm(self.transform(x, where), self._norm, self.config.norm_eps)

    def transform(self, x: torch.Tensor, where: Positions) -> torch.Tensor:
        """Run all layers over packed rows x [rows, width], and write keys and values into the pool."""
        run, eps = self.run, self.config.norm_eps
        for n, layer in enumerate(self.layers):
            keys, values = self._pool[n]
            cache = LayerCache(keys, values, None if self._scales is None else self._scales[n])
            qkv = run.linear(x, layer.qkv, eps)
            q = run.rope_and_cache(qkv, self._cos, self._sin, where.position, where.kv_index, cache)
            x = layer.merge(run, x, run.paged_attention(q, cache, where.tables, where.tiles), eps)
        return x

    def _place(self, batch: Batch) -> Positions:
        """Compute the positions of a batch's rows on the host, and copy them to the device in one piece."""
        tiles, position, kv_index = [], [], []
        first_row = 0
        for sequence, (start, length) in enumerate(zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)):
            steps = np.arange(start, start + length)
            position.append(steps)
            block = batch.blocks[sequence, steps // self.block_size].astype(np.int64)
            kv_index.append(block * self.block_size + steps % self.block_size)
            for offset in range(0, length, PREFILL_TILE):
                count = min(PREFILL_TILE, length - offset)
                tiles.append((sequence, first_row + offset, start + offset, count))
            first_row += length
        table, blocks = np.array(tiles, np.int32).T, np.ascontiguousarray(batch.blocks, np.int32)
        packed = np.concatenate([*position, *kv_index, table.ravel(), blocks.ravel()]).astype(np.int64)
        on_device = to_device(packed, batch.inputs.device)
        positions, indices, table_there, blocks_there = on_device.split([first_row, first_row, table.size, blocks.size])
        longest = 1 if len(tiles) == len(batch.lengths) == first_row else PREFILL_TILE
        sequence, first_rows, first_position, count = table_there.int().view(4, -1)
        tiles_there = Tiles(sequence, first_rows, first_position, count, longest)
        return Positions(positions, indices, blocks_there.int().view(blocks.shape), tiles_there)
