"""What TensorRT-LLM's attention plugin is told about a step: pure functions from a `Batch` to its input tables.

For the mode we use: packed positions, paged keys and values, in-flight batching, no beams. Names and shapes are those
of TensorRT-LLM 1.2's `GenerationMixin.prepare_attention_inputs`; what goes in is what its C++ runtime puts there
(batch_manager/runtimeBuffers.cpp and transformerBuffers.cpp, plugins/gptAttentionPlugin). Tables whose name begins
with `host_` are read by the CPU.

The plugin knows two kinds of sequence. A *context* sequence brings a piece of its prompt, a *generation* sequence just
one position behind others. It wants all of the first kind before all of the second, and counts on two things that
nobody checks: every piece of a prompt but its last is of whole blocks (the scheduler sees to it), and block 0 may be
written to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from misotts.engines.interface import Batch

Tables = dict[str, np.ndarray]

INPUT, OUTPUT = "hidden_states_input", "hidden_states_output"
"""The engine's packed embeddings [positions, width], and the hidden states [sequences, width] that it returns."""


@dataclass(frozen=True)
class Step:
    """One step in the plugin's order."""

    positions: np.ndarray
    """int64 [positions]: the row of `Batch.inputs` that comes here."""
    sequences: np.ndarray
    """int64 [n]: where each of the batch's sequences stands."""
    tables: Tables


def step_tables(batch: Batch, num_layers: int) -> Step:
    """The tables that are new in every step; `num_layers` of the engine share a pool (see `pool_shape`)."""
    generates = (batch.lengths == 1) & (batch.starts > 0)
    order = np.argsort(generates, kind="stable")
    types, lengths, starts = (a[order].astype(np.int32) for a in (generates, batch.lengths, batch.starts))
    ends, last = starts + lengths, lengths.cumsum(dtype=np.int32)
    first_rows = batch.lengths.cumsum(dtype=np.int64) - batch.lengths
    shift = np.repeat(first_rows[order] - (last - lengths), lengths)
    # A generation sequence's own context length is for beam search (`beam0_context_length` in the kernel) and long-RoPE
    # models alone: what lies before its position will do.
    context_lengths = np.where(types, starts, lengths)
    offsets = _block_offsets(batch.blocks[order], num_layers)
    tables = {
        "last_token_ids": last,  # counted from 1
        "sequence_length": ends,  # the position being computed is among them
        # Of a context sequence with the piece that is computed; of a generation sequence without.
        "host_past_key_value_lengths": ends - types,
        "context_lengths": context_lengths,
        "host_context_lengths": context_lengths,
        "host_request_types": types,
        "kv_cache_block_offsets": offsets,
        "host_kv_cache_block_offsets": offsets,
    }
    return Step(np.arange(len(shift)) + shift, np.argsort(order), tables)


def _block_offsets(blocks: np.ndarray, num_layers: int) -> np.ndarray:
    """Block tables [n, columns] → int32 [1, n, 2, columns]: where a sequence's keys, then its values lie, counted in
    blocks of one layer's keys or values. The plugin adds the layer's own place, so all layers share a table."""
    keys = blocks.astype(np.int32) * (2 * num_layers)
    return np.stack([keys, keys + 1], axis=1)[np.newaxis]


def constant_tables(num_layers: int, max_seq_len: int, max_sequences: int, pool_address: int) -> Tables:
    """The tables that stay; `pool_address` is that of a pool of `pool_shape` on the device."""
    knobs = np.full(16, -1, np.int64)
    knobs[:2] = 1  # attention over several thread blocks, and its sums in float32
    return {
        "cache_indirection": np.zeros((max_sequences, 1, max_seq_len), np.int32),
        "host_kv_cache_pool_pointers": np.array([[pool_address, 0]], np.int64),  # no second pool on the host
        "host_kv_cache_pool_mapping": np.array([[0, layer] for layer in range(num_layers)], np.int32),
        "host_max_attention_window_sizes": np.full(num_layers, max_seq_len, np.int32),
        "host_sink_token_length": np.zeros(1, np.int32),
        "host_runtime_perf_knobs": knobs,
        "host_context_progress": np.zeros(1, np.int64),  # a pointer, and we have no use for what it would point to
    }


def pool_shape(num_blocks: int, num_layers: int, kv_heads: int, block_size: int, head_dim: int) -> tuple[int, ...]:
    """The pool of keys (0) and values (1) as the plugin addresses it: a block holds all layers."""
    return num_blocks, num_layers, 2, kv_heads, block_size, head_dim
