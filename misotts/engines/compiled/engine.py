"""The backbone and the depth decoder of `engine.cpp`, in float32 on the CPU.

An utterance's frames are the same, to the bit, in any batch: a row's sums do not depend on the other rows.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F

from misotts.config import ModelConfig, TransformerConfig
from misotts.engines.compiled.library import library
from misotts.engines.embedding import Embedding
from misotts.engines.interface import Batch, Sampling
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.engines.transformer import layer_matrix, rope_table
from misotts.model.weight_files import Weights

PANEL = 32
"""Outputs that have their weights side by side; as in product.h."""
HEAD_TILE = 16
"""A head's keys and values take a multiple of this many floats."""


class CompiledBackbone:
    """See `Backbone`."""

    def __init__(self, weights: Weights, config: ModelConfig, num_blocks: int) -> None:
        """Pack the weights, and allocate the pool.

        Raises:
            EngineError: the library cannot be made.
        """
        c = config.backbone
        self.block_size, self.num_blocks = BLOCK_SIZE, num_blocks
        self._width = c.embed_dim
        self._transformer = _Transformer(weights, "backbone", c, config.max_seq_len)
        floats = BLOCK_SIZE * (-(-c.head_dim // HEAD_TILE) * HEAD_TILE)
        self._pool = torch.zeros(c.num_layers, 2, num_blocks, c.num_kv_heads, floats)

    def forward(self, batch: Batch) -> torch.Tensor:
        """See `Backbone.forward`."""
        ends = batch.lengths.cumsum(dtype=np.int64)
        sequences = np.repeat(np.arange(len(ends), dtype=np.int32), batch.lengths)
        shift = batch.starts - (ends - batch.lengths).astype(np.int32)
        positions = np.arange(ends[-1], dtype=np.int32) + shift[sequences]
        blocks, last = np.ascontiguousarray(batch.blocks, np.int32), ends - 1
        inputs, hidden = batch.inputs.contiguous(), torch.empty(len(ends), self._width)
        library().transformer_forward(
            self._transformer.handle, len(inputs), inputs.data_ptr(), positions.ctypes.data, sequences.ctypes.data,
            blocks.ctypes.data, blocks.shape[1], self._pool.data_ptr(), self.num_blocks, len(ends), last.ctypes.data,
            hidden.data_ptr(),
        )  # fmt: skip
        return hidden


class CompiledDepth:
    """See `Depth`."""

    def __init__(self, weights: Weights, config: ModelConfig, embedding: Embedding) -> None:
        """Pack the weights.

        Raises:
            EngineError: the library cannot be made.
        """
        self.codebooks, self.codes = config.audio_num_codebooks, config.audio_codes
        self._transformer = _Transformer(weights, "decoder", config.depth, self.codebooks)
        projection = weights["projection.weight"].float()
        # A code's projected embedding depends on (codebook, code) alone: one table instead of 31 products a frame.
        inputs = F.linear(embedding.audio_table[: (self.codebooks - 1) * config.audio_vocab_size], projection)
        heads = [weights["codebook0_head.weight"], *weights["audio_head"].transpose(1, 2)]
        self._weights = [
            _pack(projection),
            inputs,
            embedding.audio_table.contiguous(),
            *(_pack(head[: self.codes]) for head in heads),
        ]
        sizes = (self.codebooks, self.codes, config.audio_vocab_size, embedding.width)
        self._handle = library().depth_new(self._transformer.handle, _sizes(sizes), _pointers(self._weights))
        weakref.finalize(self, library().depth_free, self._handle)

    def forward(self, hidden: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Depth.forward`."""
        return self._forward(hidden, sampling, None)

    def logits(self, hidden: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        """Return the logits [n, codebooks, codes] from which `forward` samples."""
        logits = torch.empty(len(hidden), self.codebooks, self.codes)
        self._forward(hidden, sampling, logits)
        return logits

    def _forward(
        self, hidden: torch.Tensor, sampling: Sampling, logits: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n, ranks = len(hidden), sampling.noise.shape[2]
        hidden, noise = hidden.contiguous(), sampling.noise.contiguous()
        codes, embedding = torch.empty(n, self.codebooks, dtype=torch.int64), torch.empty_like(hidden)
        library().depth_forward(
            self._handle, n, hidden.data_ptr(), sampling.temperature.data_ptr(), sampling.top_k.data_ptr(),
            noise.data_ptr(), ranks, codes.data_ptr(), embedding.data_ptr(),
            None if logits is None else logits.data_ptr(),
        )  # fmt: skip
        return codes, embedding


class _Transformer:
    """Layers and final norm, with as many threads as torch has."""

    def __init__(self, weights: Weights, name: str, config: TransformerConfig, positions: int) -> None:
        """`name`: `backbone` or `decoder`; `positions`: most of a sequence."""
        c = config
        self._weights: list[torch.Tensor] = []
        for n in range(c.num_layers):
            layer = f"{name}.layers.{n}"
            self._weights += [
                weights[f"{layer}.sa_norm.scale"],
                _pack(layer_matrix(weights, layer, "qkv", c)),
                _pack(layer_matrix(weights, layer, "output", c)),
                weights[f"{layer}.mlp_norm.scale"],
                torch.cat([_pack(half) for half in layer_matrix(weights, layer, "gate_up", c).chunk(2)]),
                _pack(layer_matrix(weights, layer, "down", c)),
            ]
        self._weights += [weights[f"{name}.norm.scale"], *rope_table(c, positions)]
        self._weights = [tensor.float().contiguous() for tensor in self._weights]
        sizes = (c.num_layers, c.embed_dim, c.num_heads, c.num_kv_heads, c.head_dim, c.intermediate_dim)
        pointers = _pointers(self._weights)
        self.handle = library().transformer_new(_sizes((*sizes, torch.get_num_threads())), c.norm_eps, pointers)
        weakref.finalize(self, library().transformer_free, self.handle)


def _pack(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix [outputs, inputs] as [panels, inputs, PANEL], float32, padded with zeros."""
    outputs, inputs = matrix.shape
    padded = F.pad(matrix.float(), (0, 0, 0, -outputs % PANEL))
    return padded.view(-1, PANEL, inputs).transpose(1, 2).contiguous()


def _sizes(sizes: Iterable[int]) -> ctypes.Array[ctypes.c_int64]:
    values = list(sizes)
    return (ctypes.c_int64 * len(values))(*values)


def _pointers(tensors: Iterable[torch.Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    addresses = [tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(addresses))(*addresses)
