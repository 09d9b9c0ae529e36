"""TensorRT-LLM's engine of the backbone, as a plain program that reads a checkpoint and the plugin's tables.

It is written from the plugin's documentation (docs/engines-backbone.md) and was compared with its C++ source, not with
`misotts.engines.tensorrt_llm.tables`. Its inputs are the packed positions, the tables by name and the pool's memory.
Where the plugin would abort, it raises; where the plugin would read the wrong memory, so does this program.

The plugin (gptAttentionPlugin.cpp, `enqueueSome`) reads on the CPU: the types, which separate contexts from
generations; the context lengths, which count the contexts' tokens; the pool's address and mapping; and the largest past
length of either group, which sizes its kernels. The kernels read all else on the device, sequence by sequence.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

CONTEXT, GENERATION = 0, 1
Tables = dict[str, np.ndarray]

STEP = {
    "last_token_ids": (np.int32, ("n",)),
    "sequence_length": (np.int32, ("n",)),
    "host_past_key_value_lengths": (np.int32, ("n",)),
    "context_lengths": (np.int32, ("n",)),
    "host_context_lengths": (np.int32, ("n",)),
    "host_request_types": (np.int32, ("n",)),
    "kv_cache_block_offsets": (np.int32, (1, "n", 2, "blocks")),
    "host_kv_cache_block_offsets": (np.int32, (1, "n", 2, "blocks")),
    "cache_indirection": (np.int32, ("max_sequences", 1, "max_seq_len")),
    "host_kv_cache_pool_pointers": (np.int64, (1, 2)),
    "host_kv_cache_pool_mapping": (np.int32, ("layers", 2)),
    "host_max_attention_window_sizes": (np.int32, ("layers",)),
    "host_sink_token_length": (np.int32, (1,)),
    "host_runtime_perf_knobs": (np.int64, (16,)),
    "host_context_progress": (np.int64, (1,)),
}
"""Type and shape of every input but the positions."""


def fp8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Round x to float8_e4m3fn and back: real = stored x scale."""
    assert scale.shape == (1,)
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


@dataclass
class Sequence:
    """One sequence as the plugin reads it from the tables."""

    rows: slice
    """Rows of the packed positions."""
    first: int
    """First new position."""
    keys: int
    """Number of positions that the queries may attend to."""
    context: bool
    """True for a context sequence; its queries are FP8 if keys and values are."""
    offsets: np.ndarray
    """[2, blocks]."""


class PluginEngine:
    def __init__(self, checkpoint: Path, pool: np.ndarray, tokens_per_block: int) -> None:
        """Compute in float32 with the weights of `checkpoint`'s only rank; `pool`: the memory, float32, flat."""
        self.config = json.loads((checkpoint / "config.json").read_text())
        assert self.config["position_embedding_type"] == "rope_gpt_neox"
        assert self.config["mapping"]["world_size"] == 1
        self.weights = {k: v.float() for k, v in load_file(checkpoint / "rank0.safetensors").items()}
        quantization = self.config["quantization"]
        self.fp8, self.fp8_kv = (quantization[key] == "FP8" for key in ("quant_algo", "kv_cache_quant_algo"))
        self.pool, self.tokens_per_block = pool, tokens_per_block
        self.heads, self.kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.head_size, self.layers = self.config["head_size"], self.config["num_hidden_layers"]
        self.cos, self.sin = self._rotary()

    def _rotary(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Llama 3.1's published `apply_scaling`, in float64."""
        scaling = self.config["rotary_scaling"]
        assert scaling["type"] == "llama3"
        original, low, high = (
            scaling[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
        )
        frequencies = []
        for pair in range(self.head_size // 2):
            frequency = self.config["rotary_base"] ** (-2 * pair / self.head_size)
            wavelength = 2 * np.pi / frequency
            if wavelength > original / low:
                frequency /= scaling["factor"]
            elif wavelength >= original / high:
                smooth = (original / wavelength - low) / (high - low)
                frequency *= (1 - smooth) / scaling["factor"] + smooth
            frequencies.append(frequency)
        angle = np.outer(np.arange(self.config["max_position_embeddings"]), frequencies)
        return torch.from_numpy(np.cos(angle)).float(), torch.from_numpy(np.sin(angle)).float()

    def run(self, hidden_states_input: torch.Tensor, tables: Tables) -> torch.Tensor:
        """Packed embeddings [positions, hidden] → [n, hidden]: each sequence's last position, in the tables' order."""
        self._check_shapes(tables)
        sequences = self._sequences(tables, len(hidden_states_input))
        x = hidden_states_input
        for layer in range(self.layers):
            x = self._layer(x, layer, sequences, tables)
        x = self._norm(x, "transformer.ln_f")
        return x[torch.from_numpy(tables["last_token_ids"]).long() - 1]

    def _check_shapes(self, tables: Tables) -> None:
        assert tables.keys() == STEP.keys()
        sizes: dict[object, int] = {"layers": self.layers}
        for name, (dtype, shape) in STEP.items():
            table = tables[name]
            assert table.dtype == dtype, name
            assert table.flags.c_contiguous, name
            assert len(table.shape) == len(shape), name
            for size, symbol in zip(table.shape, shape, strict=True):
                assert size == sizes.setdefault(symbol, symbol if isinstance(symbol, int) else size), name
        assert sizes["blocks"] <= -(-sizes["max_seq_len"] // self.tokens_per_block)
        assert (tables["host_kv_cache_block_offsets"] == tables["kv_cache_block_offsets"]).all()
        assert (tables["host_context_lengths"] == tables["context_lengths"]).all()
        assert (tables["host_max_attention_window_sizes"] == sizes["max_seq_len"]).all(), "the window would slide"
        assert not tables["host_sink_token_length"].any()
        assert not tables["host_context_progress"].any(), "the plugin would follow a pointer that is not null"

    def _sequences(self, tables: Tables, positions: int) -> list[Sequence]:
        """Read the sequences from the tables."""
        types, contexts = tables["host_request_types"], tables["host_context_lengths"]
        begins = int((types == CONTEXT).argmin()) if GENERATION in types else len(types)
        if (types[begins:] == CONTEXT).any():
            raise RuntimeError("a context request after a generation request")
        past, ends = tables["host_past_key_value_lengths"], tables["sequence_length"]
        # Keys that each kernel covers; a generation's past is without its new position.
        longest = {CONTEXT: int(past[:begins].max(initial=0)), GENERATION: int(past[begins:].max(initial=0)) + 1}
        sequences, row = [], 0
        for n, kind in enumerate(types):
            length = int(contexts[n]) if kind == CONTEXT else 1
            first = int(ends[n]) - length
            if kind == CONTEXT and first % self.tokens_per_block:
                raise RuntimeError("a context chunk does not begin with a block")
            keys = min(int(ends[n]), longest[int(kind)])
            offsets = tables["kv_cache_block_offsets"][0, n]
            sequences.append(Sequence(slice(row, row + length), first, keys, kind == CONTEXT, offsets))
            row += length
        assert row == positions
        return sequences

    def _layer(self, x: torch.Tensor, layer: int, sequences: list[Sequence], tables: Tables) -> torch.Tensor:
        name = f"transformer.layers.{layer}"
        q, k, v = self._linear(self._norm(x, f"{name}.input_layernorm"), f"{name}.attention.qkv").split(
            [self.heads * self.head_size, self.kv_heads * self.head_size, self.kv_heads * self.head_size], dim=-1
        )
        attended = torch.cat([self._attend(q[s.rows], k[s.rows], v[s.rows], s, layer, tables) for s in sequences])
        x = x + self._linear(attended, f"{name}.attention.dense")
        y = self._norm(x, f"{name}.post_layernorm")
        y = F.silu(self._linear(y, f"{name}.mlp.fc")) * self._linear(y, f"{name}.mlp.gate")
        return x + self._linear(y, f"{name}.mlp.proj")

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequence: Sequence, layer: int, tables: Tables
    ) -> torch.Tensor:
        length = len(q)
        q, k, v = (t.view(length, -1, self.head_size) for t in (q, k, v))
        at = torch.arange(sequence.first, sequence.first + length)
        q, k = self._rotate(q, at), self._rotate(k, at)
        if self.fp8_kv:
            scale = self.weights[f"transformer.layers.{layer}.attention.kv_cache_scaling_factor"]
            q, k, v = fp8(q, scale) if sequence.context else q, fp8(k, scale), fp8(v, scale)
        for kind, new in enumerate((k, v)):
            for i in range(length):
                self._block(sequence, kind, sequence.first + i, layer, tables)[
                    :, (sequence.first + i) % self.tokens_per_block
                ] = new[i].numpy()
        keys, values = (
            torch.from_numpy(
                np.concatenate(
                    [
                        self._block(sequence, kind, position, layer, tables)
                        for position in range(0, sequence.keys, self.tokens_per_block)
                    ],
                    axis=1,
                )[:, : sequence.keys]
            )
            for kind in (0, 1)
        )  # [kv_heads, keys, head_size]
        mask = torch.arange(sequence.keys) <= at[:, None]
        attended = F.scaled_dot_product_attention(q.transpose(0, 1), keys, values, mask, enable_gqa=True)
        return attended.transpose(0, 1).reshape(length, -1)

    def _block(self, sequence: Sequence, kind: int, position: int, layer: int, tables: Tables) -> np.ndarray:
        """Return the memory [kv_heads, tokens_per_block, head_size] of the block with a position's keys or values."""
        size = self.kv_heads * self.tokens_per_block * self.head_size  # elements
        pool, layer_in_pool = tables["host_kv_cache_pool_mapping"][layer]
        assert pool == 0
        offset = int(sequence.offsets[kind, position // self.tokens_per_block])
        assert offset >= 0, "bit 31 means a pool on the host, and there is none"
        address = int(tables["host_kv_cache_pool_pointers"][pool, 0])
        address += (int(layer_in_pool) * 2 + offset) * size * self.pool.itemsize
        element, rest = divmod(address - self.pool.ctypes.data, self.pool.itemsize)
        assert rest == 0
        assert 0 <= element <= self.pool.size - size
        return self.pool[element : element + size].reshape(self.kv_heads, self.tokens_per_block, self.head_size)

    def _rotate(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        cos, sin = self.cos[at].unsqueeze(1), self.sin[at].unsqueeze(1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight = self.weights[f"{name}.weight"]
        if self.fp8:
            x = fp8(x, self._cast(f"{name}.activation_scaling_factor"))
            weight = weight * self._cast(f"{name}.weights_scaling_factor")
        return x @ weight.T

    def _cast(self, name: str) -> torch.Tensor:
        """Return a scale as `FP8Linear` uses it, cast to the type of the activations."""
        return self.weights[name].to(getattr(torch, self.config["dtype"])).float()

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale = self.weights[f"{name}.weight"]
        return x * (x.square().mean(-1, keepdim=True) + self.config["norm_epsilon"]).rsqrt() * scale
