"""What a frame cannot do without: bytes through memory and operations, from the model's shapes.

Bytes: every weight once, of the depth decoder's layers once for each of its passes (they do not fit in any cache), the
keys and values of all cached positions. Operations: two for each weight and row, four for each cached position, head
and head dimension. Activations, which a good kernel keeps on the chip, count for nothing; nor does sampling.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from misotts.config import ModelConfig, TransformerConfig


@dataclass(frozen=True)
class Work:
    """The least that something takes."""

    bytes: float
    flops: float
    dtype: str = "bfloat16"
    """Whose matrix rate counts: `bfloat16` or `float32`."""


@dataclass(frozen=True)
class Rates:
    """What the device was measured to do."""

    copy: float
    """Bytes per second of a large copy, read and written bytes both counted."""
    matrix: dict[str, float]
    """Operations per second of a large matrix product, by dtype."""

    def floor(self, work: Work, ms: float) -> dict[str, float]:
        """`bytes_ms`, `flops_ms` and how many times the larger of them `ms` is; nothing where the rate is not known."""
        if work.dtype not in self.matrix:
            return {}
        bytes_ms = work.bytes / self.copy * 1000
        flops_ms = work.flops / self.matrix[work.dtype] * 1000
        floor = max(bytes_ms, flops_ms)
        figures = {"bytes_ms": bytes_ms, "flops_ms": flops_ms, **({"x_floor": ms / floor} if floor else {})}
        return {name: float(f"{value:.4g}") for name, value in figures.items()}

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def layer_weights(c: TransformerConfig) -> int:
    """Weights of all layers, norms left out."""
    attention = c.embed_dim * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
    return c.num_layers * (attention + 3 * c.embed_dim * c.intermediate_dim)


def position_bytes(c: TransformerConfig, itemsize: int) -> int:
    """Keys and values of one position in all layers."""
    return c.num_layers * 2 * c.num_kv_heads * c.head_dim * itemsize


def _attention_flops(c: TransformerConfig, keys: int) -> int:
    return 4 * c.num_layers * c.num_heads * c.head_dim * keys


def backbone(config: ModelConfig, rows: int, context: int, itemsize: int, dtype: str) -> Work:
    """One pass over one new position of each of `rows` sequences, which have `context` positions cached."""
    c = config.backbone
    return Work(
        bytes=layer_weights(c) * itemsize + rows * context * position_bytes(c, itemsize),
        flops=rows * (2 * layer_weights(c) + _attention_flops(c, context + 1)),
        dtype=dtype,
    )


def prefill(config: ModelConfig, positions: int, itemsize: int, dtype: str) -> Work:
    """One pass over the first `positions` of a prompt."""
    c = config.backbone
    return Work(
        bytes=layer_weights(c) * itemsize + positions * position_bytes(c, itemsize),
        flops=positions * (2 * layer_weights(c) + _attention_flops(c, positions // 2)),
        dtype=dtype,
    )


def depth(config: ModelConfig, rows: int, itemsize: int, dtype: str) -> Work:
    """One frame of each of `rows`: the layers run once for every codebook but the first, the first time over two
    positions; each head and the projection of the hidden state once."""
    c, codebooks = config.depth, config.audio_num_codebooks
    once = config.backbone.embed_dim * (config.audio_codes + c.embed_dim)
    once += (codebooks - 1) * c.embed_dim * config.audio_codes
    layers = layer_weights(c)
    return Work(
        bytes=((codebooks - 1) * layers + once) * itemsize,
        flops=rows * (2 * (codebooks * layers + once) + _attention_flops(c, codebooks * (codebooks + 1) // 2)),
        dtype=dtype,
    )


def embedding(config: ModelConfig, rows: int, itemsize: int) -> Work:
    """The summed embeddings of one frame of each of `rows`: rows of the table read, sums written."""
    width, codebooks = config.backbone.embed_dim, config.audio_num_codebooks
    return Work(bytes=rows * (codebooks + 1) * width * itemsize, flops=0)


def together(*parts: Work) -> Work:
    """One after the other."""
    return Work(sum(p.bytes for p in parts), sum(p.flops for p in parts), parts[0].dtype)
