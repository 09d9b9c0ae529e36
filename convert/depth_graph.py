"""The depth decoder as one ONNX graph: codebook-0 head, 32 samplings, 31 steps with their own keys and values.

    hidden [n, backbone width], temperature [n], top_k [n], noise [n, codebooks, ranks]
    → codes [n, codebooks] int64, embedding [n, backbone width]

as in `Depth.forward` and `Sampling`. n and ranks are free, so one graph takes any TOP_K. The graph is written operator
by operator, so that all steps use the same initialisers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch

from convert.operators import Operators
from misotts.config import ModelConfig
from misotts.engines.transformer import rope_table

OPSET = 20
"""Below 23, because the TensorRT in TensorRT-LLM's containers has no RMSNormalization."""
IR_VERSION = 10

DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.float16: ir.DataType.FLOAT16,
}


def depth_graph(config: ModelConfig, dtype: torch.dtype, weights: Mapping[str, ir.TensorProtocol]) -> ir.Model:
    """Build the graph around `weights`, which have the names and shapes of `depth_shapes`, in `dtype`.

    Norms, softmax, sampling and the embeddings' sum are in float32 with any type.
    """
    codebooks, width = config.audio_num_codebooks, config.backbone.embed_dim
    to, whole, number = DTYPES[dtype], ir.DataType.INT64, ir.DataType.FLOAT
    hidden = _value("hidden", to, "n", width)
    temperature, top_k = _value("temperature", number, "n"), _value("top_k", whole, "n")
    noise = _value("noise", number, "n", codebooks, "ranks")
    ops = Operators(weights)
    sampler = _Sampler(ops, temperature, top_k, noise)
    codes, embedding = _Decoder(ops, config, to).frame(hidden, sampler)
    for output, expected in (
        (codes, _value("codes", whole, "n", codebooks)),
        (embedding, _value("embedding", to, "n", width)),
    ):
        output.name, output.type, output.shape = expected.name, expected.type, expected.shape
    graph = ops.graph("depth", OPSET, [hidden, temperature, top_k, noise], [codes, embedding])
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="misotts")


def _value(name: str, dtype: ir.DataType, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


class _Sampler:
    """`misotts.engines.sampling.sample`, codebook by codebook."""

    def __init__(self, ops: Operators, temperature: ir.Value, top_k: ir.Value, noise: ir.Value) -> None:
        self._ops, op = ops, ops.op
        self._ranks = op("Shape", noise, start=2, end=3)
        rank = op("Range", 0, op("Squeeze", self._ranks), 1)
        candidate = op("Unsqueeze", op("Less", rank, op("Unsqueeze", top_k, [1])), [1])
        self._noise = op("Where", candidate, noise, np.array(-np.inf, np.float32))
        self._temperature = op("Unsqueeze", temperature, [1])

    def __call__(self, logits: ir.Value, codebook: int) -> ir.Value:
        """Sample codes [n, 1] from logits [n, codes], float32."""
        op = self._ops.op
        logits.name = f"logits.{codebook}"
        values, codes = self._ops.several(2, "TopK", logits, self._ranks)
        noise = op("Gather", self._noise, codebook, axis=1)
        winner = op("ArgMax", op("Add", op("Div", values, self._temperature), noise), axis=1)
        code = op("GatherElements", codes, winner, axis=1)
        code.name = f"code.{codebook}"
        return code


class _Decoder:
    """The network. Each layer's keys [n, kv_heads, head_dim, positions] and values [n, kv_heads, positions, head_dim]
    grow by a position a step."""

    def __init__(self, ops: Operators, config: ModelConfig, dtype: ir.DataType) -> None:
        self._ops, self._op, self._weights = ops, ops.op, ops.weights
        self._config, self._codebooks, self._vocab = config.depth, config.audio_num_codebooks, config.audio_vocab_size
        self._dtype = dtype
        self._rope = [table.numpy().astype(dtype.numpy()) for table in rope_table(config.depth, self._codebooks)]
        self._past: dict[int, tuple[ir.Value, ir.Value]] = {}

    def frame(self, hidden: ir.Value, sampler: _Sampler) -> tuple[ir.Value, ir.Value]:
        """Return the codes [n, codebooks] and the sum of their embeddings [n, backbone width]."""
        op, weights = self._op, self._weights
        sampled = [sampler(self._head(hidden, 0), 0)]
        start = op("Unsqueeze", op("MatMul", hidden, self._weights["projection"]), [1])
        x = op("Concat", start, self._input(sampled[0], 0), axis=1)
        for codebook in range(1, self._codebooks):
            sampled.append(sampler(self._head(self._transform(x, codebook), codebook), codebook))
            if codebook < self._codebooks - 1:
                x = self._input(sampled[-1], codebook)
        codes = op("Concat", *sampled, axis=1)
        rows = op("Gather", weights["embeddings"], op("Add", codes, np.arange(self._codebooks) * self._vocab))
        return codes, self._narrow(op("ReduceSum", self._wide(rows), [1], keepdims=0))

    def _head(self, x: ir.Value, codebook: int) -> ir.Value:
        return self._wide(self._op("MatMul", x, self._weights[f"heads.{codebook}"]))

    def _input(self, codes: ir.Value, codebook: int) -> ir.Value:
        """Return the next position's input [n, 1, width] for codes [n, 1]."""
        return self._op("Gather", self._weights["inputs"], self._op("Add", codes, codebook * self._vocab))

    def _transform(self, x: ir.Value, last: int) -> ir.Value:
        """Run x [n, positions, width], two positions at first and then one, which ends at position `last`; return the
        last position's state [n, width]."""
        positions = 2 if last == 1 else 1
        for layer in range(self._config.num_layers):
            x = self._layer(x, layer, last + 1 - positions, last + 1)
        return self._norm(self._op("Gather", x, positions - 1, axis=1), "norm")

    def _layer(self, x: ir.Value, layer: int, first: int, end: int) -> ir.Value:
        """Run positions `first` to `end` - 1 through a layer."""
        op, prefix = self._op, f"layers.{layer}"
        qkv = op("MatMul", self._norm(x, f"{prefix}.attention_norm"), self._weights[f"{prefix}.qkv"])
        attended = self._attend(self._remember(qkv, layer, first, end), layer, first, end)
        x = op("Add", x, op("MatMul", attended, self._weights[f"{prefix}.output"]))
        inner = op("MatMul", self._norm(x, f"{prefix}.mlp_norm"), self._weights[f"{prefix}.gate_up"])
        gate, up = self._ops.split(inner, [self._config.intermediate_dim] * 2, axis=2)
        swish = op("Mul", gate, op("Sigmoid", gate))
        return op("Add", x, op("MatMul", op("Mul", swish, up), self._weights[f"{prefix}.down"]))

    def _remember(self, qkv: ir.Value, layer: int, first: int, end: int) -> ir.Value:
        """Append the new keys and values to the layer's past; return the queries [n, heads, positions, head_dim]."""
        op, c = self._op, self._config
        heads = op("Reshape", qkv, [0, end - first, c.num_heads + 2 * c.num_kv_heads, c.head_dim])
        heads = op("Transpose", heads, perm=[0, 2, 1, 3])
        turning, values = self._ops.split(heads, [c.num_heads + c.num_kv_heads, c.num_kv_heads], axis=1)
        turned = self._rotate(turning, first, end)
        queries, keys = self._ops.split(turned, [c.num_heads, c.num_kv_heads], axis=1)
        keys = op("Transpose", keys, perm=[0, 1, 3, 2])
        if first:
            past_keys, past_values = self._past[layer]
            keys, values = op("Concat", past_keys, keys, axis=3), op("Concat", past_values, values, axis=2)
        self._past[layer] = keys, values
        return queries

    def _rotate(self, x: ir.Value, first: int, end: int) -> ir.Value:
        """RoPE on x [n, heads, positions, head_dim], half-split: see `rotate`."""
        cos, sin = (table[first:end] for table in self._rope)
        halves = self._ops.split(x, [self._config.head_dim // 2] * 2, axis=3)
        rolled = self._op("Concat", halves[1], halves[0], axis=3)
        return self._op("Add", self._op("Mul", x, cos), self._op("Mul", rolled, sin))

    def _attend(self, queries: ir.Value, layer: int, first: int, end: int) -> ir.Value:
        """Attention over the layer's past → [n, positions, width]. Query heads that share a key head are rows of one
        product."""
        op, c, positions = self._op, self._config, end - first
        keys, values = self._past[layer]
        shared = c.num_heads // c.num_kv_heads
        rows = op("Reshape", queries, [0, c.num_kv_heads, shared * positions, c.head_dim])
        scores = self._wide(op("MatMul", rows, keys))
        scores = op("Mul", scores, np.array(c.head_dim**-0.5, np.float32))
        if positions > 1:  # a position does not see those behind it
            future = np.triu(np.full((positions, end), -np.inf, np.float32), first + 1)
            scores = op("Add", scores, np.tile(future, (shared, 1)))
        attended = op("MatMul", self._narrow(op("Softmax", scores, axis=-1)), values)
        attended = op("Reshape", attended, [0, c.num_heads, positions, c.head_dim])
        return op("Reshape", op("Transpose", attended, perm=[0, 2, 1, 3]), [0, positions, c.embed_dim])

    def _norm(self, x: ir.Value, scale: str) -> ir.Value:
        op, wide = self._op, self._wide(x)
        mean = op("ReduceMean", op("Mul", wide, wide), [-1])
        length = op("Sqrt", op("Add", mean, np.array(self._config.norm_eps, np.float32)))
        return op("Mul", self._narrow(op("Div", wide, length)), self._weights[scale])

    def _wide(self, x: ir.Value) -> ir.Value:
        return x if self._dtype == ir.DataType.FLOAT else self._op("Cast", x, to=ir.DataType.FLOAT)

    def _narrow(self, x: ir.Value) -> ir.Value:
        return x if self._dtype == ir.DataType.FLOAT else self._op("Cast", x, to=self._dtype)
