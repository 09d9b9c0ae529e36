"""Cost tables of GPUs on which nothing has been measured: the floor below which physics does not let them go.

A step takes at least as long as its bytes take at the memory's rate, and as its operations take at the matrix units'
rate; the larger of the two is its floor. What a GPU adds to it (launches, kernels that reach a part of either rate,
synchronisation) is not in it, so the real thing is slower: ask for a multiple of the floor (`CostTable.times`). Every
figure made from such a table is labelled "from the floor model, never measured".

Sources: GPUs' rates are NVIDIA's data sheets (dense, without sparsity), memory rates times what an H100 reached of its
own in a copy (3.0 of 3.35 TB/s); the model's sizes its configuration; the codec's operations torch's FlopCounterMode on
the published Mimi decoder; the watermark's those of SilentCipher's published width. What the host does for each frame
of the watermark, and messages through Triton, were timed on a 2-core AMD EPYC virtual machine (23 Nov 2026).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.costs.floors import layer_weights, position_bytes
from benchmarks.costs.table import CostTable, Grid, Line, PromptCost
from misotts.config import ModelConfig
from misotts.engines.kv_memory import BLOCK_SIZE

COPY_SHARE = 3.0 / 3.35
CODEC_FLOP = 0.43e9
"""Of one frame, float32."""
CODEC_BYTES = 39.9e6 * 4
WATERMARK_FLOP = 48e9 * 0.08
"""Of one frame, float32."""
WATERMARK_HOST_MS = 0.15
"""Of one frame of one stream: resampling, windows and overlap-add, on one core, whatever the GPU does."""
HOP_MS = 0.7
SEND_MS = 0.35
PROMPT_MS = 1.0
POSITIONS_PER_CHAR = 0.24
FIXED_POSITIONS = 6
HOLD_BACK_FRAMES = 5
OTHER_MEMORY_BYTES = 6e9
"""Codec, watermark, embeddings' table, CUDA contexts of four processes, activations."""
USABLE = 0.95
"""Of a GPU's memory."""
KV_BYTES = 2
"""Of a number in the KV pool: bfloat16."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CONTEXTS = (64, 512, 2048)
PIECES = (1, 64, 128, 256, 512, 1024)
FRAMES = (1, 2, 4, 8, 16)

MISO_8B = ModelConfig.from_dict(
    dict(
        text_vocab_size=128256, audio_vocab_size=2051, audio_num_codebooks=32, backbone="llama-8B", decoder="llama-300M"
    )
)


@dataclass(frozen=True)
class Gpu:
    """What a data sheet says."""

    name: str
    memory_gb: float
    memory_tb_s: float
    bf16_tflop_s: float
    fp8_tflop_s: float | None
    fp32_tflop_s: float
    """Without the matrix units."""


GPUS = {
    "l40s": Gpu("L40S", 48, 0.864, 362, 733, 91.6),
    "a100": Gpu("A100 80 GB SXM", 80, 2.039, 312, None, 19.5),
    "h100": Gpu("H100 SXM", 80, 3.35, 989, 1979, 67),
    "h200": Gpu("H200", 141, 4.8, 989, 1979, 67),
    "b200": Gpu("B200", 180, 8.0, 2250, 4500, 75),
}


class NoSuchPrecisionError(ValueError):
    """The GPU has no matrix units for it."""


def floor(gpu: Gpu, fp8: bool = False, config: ModelConfig = MISO_8B) -> CostTable:
    """The floor of a model on a GPU: weights in bfloat16 or FP8, keys and values in bfloat16.

    Raises:
        NoSuchPrecisionError: FP8 on a GPU without it.
    """
    rate = gpu.fp8_tflop_s if fp8 else gpu.bf16_tflop_s
    if rate is None:
        raise NoSuchPrecisionError(f"{gpu.name} has no FP8")
    sums = _Sums(config, 1 if fp8 else 2, gpu.memory_tb_s * COPY_SHARE * 1e9, rate * 1e9)
    fp32 = gpu.fp32_tflop_s * 1e9  # per ms, like the other rates

    def codec_ms(rows: int, frames: int) -> float:
        return max(CODEC_BYTES / sums.bytes_per_ms, rows * frames * CODEC_FLOP / fp32)

    def watermark_ms(rows: int, frames: int) -> float:
        return rows * frames * max(WATERMARK_HOST_MS, WATERMARK_FLOP / fp32)

    return CostTable(
        name=f"{gpu.name}, MisoTTS 8B, {'FP8' if fp8 else 'bf16'}",
        source="floor model",
        step=_grid(BATCHES, CONTEXTS, sums.step_ms),
        prefill=Line(list(PIECES), [round(sums.prefill_ms(positions), 4) for positions in PIECES]),
        decode=_grid(BATCHES, FRAMES, codec_ms),
        watermark=_grid(BATCHES, FRAMES, watermark_ms),
        prompt=PromptCost(PROMPT_MS, POSITIONS_PER_CHAR, FIXED_POSITIONS),
        hop_ms=HOP_MS,
        send_ms=SEND_MS,
        network_ms=0.0,
        speed_when_busy=[1.0, 0.5],
        overlaps=True,
        hold_back_frames=HOLD_BACK_FRAMES,
        block_size=BLOCK_SIZE,
        kv_blocks=sums.kv_blocks(gpu.memory_gb * 1e9),
        on_host=["watermark"],
    )


def _grid(rows: Sequence[int], columns: Sequence[int], ms: Callable[[int, int], float]) -> Grid:
    return Grid(list(rows), list(columns), [[round(ms(row, column), 4) for column in columns] for row in rows])


@dataclass(frozen=True)
class _Sums:
    """Bytes and operations of a model."""

    config: ModelConfig
    weight_bytes: int
    """Of one weight."""
    bytes_per_ms: float
    flop_per_ms: float

    def step_ms(self, batch: int, context: int) -> float:
        """One frame of each row. The depth decoder's weights are read once for every codebook but the first."""
        passes = self.config.audio_num_codebooks - 1
        weights = layer_weights(self.config.backbone)
        cached = batch * context * position_bytes(self.config.backbone, KV_BYTES)
        backbone = self._ms(weights * self.weight_bytes + cached, 2 * batch * weights)
        depth = passes * self._ms(self._depth_pass() * self.weight_bytes, 2 * batch * self._depth_pass())
        return backbone + depth

    def prefill_ms(self, positions: int) -> float:
        weights = layer_weights(self.config.backbone)
        return self._ms(weights * self.weight_bytes, 2 * positions * weights)

    def kv_blocks(self, memory_bytes: float) -> int:
        """Blocks that fit beside the weights.

        Raises:
            ValueError: the weights do not.
        """
        c = self.config
        embeddings = (c.text_vocab_size + c.audio_num_codebooks * c.audio_vocab_size) * c.backbone.embed_dim * 2
        table = c.audio_num_codebooks * c.audio_vocab_size * c.depth.embed_dim * 2
        weights = (layer_weights(c.backbone) + layer_weights(c.depth)) * self.weight_bytes
        left = memory_bytes * USABLE - weights - embeddings - table - OTHER_MEMORY_BYTES
        blocks = int(left // (position_bytes(c.backbone, KV_BYTES) * BLOCK_SIZE))
        if blocks < 1 + c.max_seq_len // BLOCK_SIZE:
            raise ValueError(f"the model does not fit into {memory_bytes / 1e9:g} GB")
        return blocks

    def _depth_pass(self) -> float:
        """Weights read for one codebook: the layers, the projection of its embedding, its head."""
        c = self.config
        projection = c.backbone.embed_dim * c.depth.embed_dim
        return layer_weights(c.depth) + projection + c.depth.embed_dim * c.audio_vocab_size

    def _ms(self, read_bytes: float, flop: float) -> float:
        return max(read_bytes / self.bytes_per_ms, flop / self.flop_per_ms)
