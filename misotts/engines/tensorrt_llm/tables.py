"""The input tables of TensorRT-LLM's attention plugin for a step, as pure functions of a `Batch`.

They are for packed positions, paged keys and values, and in-flight batching, without beams. Names and shapes are those
of TensorRT-LLM 1.2's `GenerationMixin.prepare_attention_inputs`; the values are those that its C++ runtime writes
(batch_manager/runtimeBuffers.cpp and transformerBuffers.cpp, plugins/gptAttentionPlugin). Names of tables that the
CPU reads begin with `host_`.

The plugin has two kinds of sequences. A *context* sequence has a prefill chunk, a *generation* sequence has one
position behind others. All sequences of the first kind come before all of the second. The plugin presumes two things
without a check: every prefill chunk but a prompt's last is of whole blocks (the scheduler ensures it), and block 0 may
be written to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from misotts.engines.interface import Batch

Tables = dict[str, npt.NDArray[np.integer[Any]]]

INPUT, OUTPUT = "hidden_states_input", "hidden_states_output"
"""The engine's packed embeddings [positions, width], and the hidden states [sequences, width] that it returns."""


@dataclass(frozen=True)
class Step:
    """One step in the plugin's order."""

    positions: npt.NDArray[np.int64]
    """[positions]: row of `Batch.inputs` at each position."""
    sequences: npt.NDArray[np.int64]
    """[n]: place of each of the batch's sequences."""
    tables: Tables


def step_tables(batch: Batch, num_layers: int) -> Step:
    """Return the tables that change in every step. `num_layers`: layers of the pool (see `pool_shape`)."""
    generates = (batch.lengths == 1) & (batch.starts > 0)
    order = np.argsort(generates, kind="stable")
    types, lengths, starts = (a[order].astype(np.int32) for a in (generates, batch.lengths, batch.starts))
    ends, last = starts + lengths, lengths.cumsum(dtype=np.int32)
    first_rows = batch.lengths.cumsum(dtype=np.int64) - batch.lengths
    shift = np.repeat(first_rows[order] - (last - lengths), lengths)
    # Only beam search (`beam0_context_length` in the kernel) and long-RoPE models read a generation sequence's context
    # length: the number of positions before its own serves.
    context_lengths = np.where(types, starts, lengths)
    offsets = _block_offsets(batch.blocks[order], num_layers)
    tables = {
        "last_token_ids": last,  # counted from 1
        "sequence_length": ends,  # with the positions of this step
        # With the positions of this step for a context sequence, without them for a generation sequence.
        "host_past_key_value_lengths": ends - types,
        "context_lengths": context_lengths,
        "host_context_lengths": context_lengths,
        "host_request_types": types,
        "kv_cache_block_offsets": offsets,
        "host_kv_cache_block_offsets": offsets,
    }
    return Step(np.arange(len(shift)) + shift, np.argsort(order), tables)


def _block_offsets(blocks: npt.NDArray[np.int32], num_layers: int) -> npt.NDArray[np.int32]:
    """Block tables [n, columns] → offsets [1, n, 2, columns] of a sequence's keys and values, in units of one layer's
    keys or values of a block. The plugin adds the layer's offset, so all layers share a table."""
    keys = blocks * np.int32(2 * num_layers)
    offsets: npt.NDArray[np.int32] = np.stack([keys, keys + 1], axis=1)[np.newaxis]
    return offsets


def constant_tables(num_layers: int, max_seq_len: int, max_sequences: int, pool_address: int) -> Tables:
    """Return the tables that stay the same. `pool_address`: address of a pool of `pool_shape` on the device."""
    knobs = np.full(16, -1, np.int64)
    knobs[:2] = 1  # attention over several thread blocks, with sums in float32
    return {
        "cache_indirection": np.zeros((max_sequences, 1, max_seq_len), np.int32),
        "host_kv_cache_pool_pointers": np.array([[pool_address, 0]], np.int64),  # no second pool on the host
        "host_kv_cache_pool_mapping": np.array([[0, layer] for layer in range(num_layers)], np.int32),
        "host_max_attention_window_sizes": np.full(num_layers, max_seq_len, np.int32),
        "host_sink_token_length": np.zeros(1, np.int32),
        "host_runtime_perf_knobs": knobs,
        "host_context_progress": np.zeros(1, np.int64),  # a null pointer: progress is not reported
    }


def pool_shape(num_blocks: int, num_layers: int, kv_heads: int, block_size: int, head_dim: int) -> tuple[int, ...]:
    """Return the shape of the pool as the plugin addresses it: a block has keys (0) and values (1) of all layers."""
    return num_blocks, num_layers, 2, kv_heads, block_size, head_dim
