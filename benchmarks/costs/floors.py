"""The least that a frame costs: bytes through memory and operations, from the model's shapes.

Bytes: every weight once; the depth decoder's layers once for each of its passes, because they fit in no cache; the keys
and values of all cached positions. Operations: two for each weight and row; four for each cached position, head and
head dimension. Activations, which a good kernel keeps on the chip, and sampling count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from misotts.config import FLAVORS, ModelConfig, TransformerConfig

MISOTTS_8B = ModelConfig(
    text_vocab_size=128_256,
    audio_vocab_size=2051,
    audio_num_codebooks=32,
    backbone=TransformerConfig(**FLAVORS["llama-8B"]),
    depth=TransformerConfig(**FLAVORS["llama-300M"]),
)


@dataclass(frozen=True)
class Work:
    """The least bytes and operations of something."""

    bytes: float
    flops: float
    dtype: str = "bfloat16"
    """Number format of the matrix products, a key of `Rates.matrix`."""


@dataclass(frozen=True)
class Rates:
    """The speed of a device."""

    copy: float
    """Bytes per second of a large copy; read and written bytes both count."""
    matrix: dict[str, float]
    """Operations per second of a large matrix product, by number format."""

    def least_ms(self, work: Work) -> tuple[float, float]:
        """Return the milliseconds that the bytes take, and those that the operations take."""
        return work.bytes / self.copy * 1000, work.flops / self.matrix[work.dtype] * 1000

    def floor(self, work: Work, ms: float) -> dict[str, float]:
        """Return `bytes_ms`, `flops_ms` and the ratio of `ms` to the larger one; nothing where a rate is not known."""
        if work.dtype not in self.matrix:
            return {}
        bytes_ms, flops_ms = self.least_ms(work)
        floor = max(bytes_ms, flops_ms)
        figures = {"bytes_ms": bytes_ms, "flops_ms": flops_ms, **({"x_floor": ms / floor} if floor else {})}
        return {name: float(f"{value:.4g}") for name, value in figures.items()}


@dataclass(frozen=True)
class Floors:
    """The least work of a model's parts."""

    config: ModelConfig
    dtype: str
    weight_bytes: int
    """Bytes of a weight."""
    kv_bytes: int
    """Bytes of an element of a key or value."""

    def backbone(self, rows: int, context: int) -> Work:
        """One pass over one new position of each of `rows` sequences that have `context` positions cached."""
        c = self.config.backbone
        return Work(
            bytes=layer_weights(c) * self.weight_bytes + rows * context * self.position_bytes,
            flops=rows * (2 * layer_weights(c) + _attention_flops(c, context + 1)),
            dtype=self.dtype,
        )

    def prefill(self, positions: int) -> Work:
        """One pass over the first `positions` of a prompt."""
        c = self.config.backbone
        return Work(
            bytes=layer_weights(c) * self.weight_bytes + positions * self.position_bytes,
            flops=positions * (2 * layer_weights(c) + _attention_flops(c, positions // 2)),
            dtype=self.dtype,
        )

    def depth(self, rows: int) -> Work:
        """One frame of each of `rows`: the layers run once for every codebook but the first, the first time over two
        positions; each head and the projection of the hidden state run once."""
        c, codebooks = self.config.depth, self.config.audio_num_codebooks
        once = self.config.backbone.embed_dim * (self.config.audio_codes + c.embed_dim)
        once += (codebooks - 1) * c.embed_dim * self.config.audio_codes
        layers = layer_weights(c)
        return Work(
            bytes=((codebooks - 1) * layers + once) * self.weight_bytes,
            flops=rows * (2 * (codebooks * layers + once) + _attention_flops(c, codebooks * (codebooks + 1) // 2)),
            dtype=self.dtype,
        )

    def embedding(self, rows: int) -> Work:
        """The summed embeddings of one frame of each of `rows`: rows of the table are read, sums are written."""
        width, codebooks = self.config.backbone.embed_dim, self.config.audio_num_codebooks
        return Work(bytes=rows * (codebooks + 1) * width * self.weight_bytes, flops=0, dtype=self.dtype)

    def step(self, rows: int, context: int) -> Work:
        """Backbone, depth decoder and embedding, one after another."""
        parts = self.backbone(rows, context), self.depth(rows), self.embedding(rows)
        return Work(sum(part.bytes for part in parts), sum(part.flops for part in parts), self.dtype)

    @property
    def position_bytes(self) -> int:
        """Bytes of the keys and values of one position in all layers of the backbone."""
        c = self.config.backbone
        return c.num_layers * 2 * c.num_kv_heads * c.head_dim * self.kv_bytes


def layer_weights(c: TransformerConfig) -> int:
    """Return the number of weights of all layers, without norms."""
    attention = c.embed_dim * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads)
    return c.num_layers * (attention + 3 * c.embed_dim * c.intermediate_dim)


def _attention_flops(c: TransformerConfig, keys: int) -> int:
    return 4 * c.num_layers * c.num_heads * c.head_dim * keys
