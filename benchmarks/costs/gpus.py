"""Cost tables of GPUs on which nothing was measured: the floor that memory and matrix units allow.

A step takes at least the time of its bytes at the memory's rate, and at least the time of its operations at the matrix
units' rate; the larger of the two is its floor. Launches, kernels that reach a part of either rate, and synchronisation
come on top, so a real GPU is slower: use a multiple of the floor (`CostTable.times`). Every figure from such a table is
labelled "from the floor model, never measured".

Sources: the rates are NVIDIA's data sheets (dense, without sparsity), memory rates times the share that an H100 reached
in a copy (3.0 of 3.35 TB/s). The model's sizes are its configuration. The codec's operations were counted by torch's
FlopCounterMode on the published Mimi decoder; the watermark's are those of SilentCipher's published width. The host's
part of messages through Triton (23 Nov 2026) and of the watermark was timed on a 2-core AMD EPYC virtual machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.costs.floors import MISOTTS_8B, Floors, Rates, Work, layer_weights
from benchmarks.costs.table import CostTable, Grid, Line, PromptCost
from misotts.config import ModelConfig
from misotts.engines.kv_memory import BLOCK_SIZE
from misotts.hold_back import GRADUAL, HoldBack

COPY_SHARE = 3.0 / 3.35
CODEC = Work(bytes=39.9e6 * 4, flops=0.43e9, dtype="float32")
"""A call of Mimi's decoder: its weights, and the operations of one frame."""
WATERMARK_FLOP = 48e9 * 0.08
"""Operations of one frame of the watermark's network. They are convolutions, which cuDNN by default runs in TF32, at
half the rate of bfloat16."""
WATERMARK_HOST_MS = 0.046
"""Resampling and overlap-add of one frame of one stream on one core of the host, with any GPU. In the real server
(`benchmarks.host_cost --utterance-s 5` with a free network, 27 Nov 2026, `host-watermark-...json`) a chunk of 10 frames
kept the stage's worker busy for 0.65 ms, and for 0.73 in two runs that were not kept: 10 frames, and 5.8 more that
early marks and the end of a stream cost. Launches of the network's kernels are not counted."""
HOP_MS = 0.7
SEND_MS = 0.35
SEND_OUT_MS = 0.65
"""Time in which a chunk occupies the thread that sends it, in the stages before watermark and in watermark: 0.27 and
0.29 ms in decode, 0.57 and 0.60 in watermark (that file and `host-messages-...json`), and up to 0.34 and 0.70 in runs
that were not kept."""
PROMPT_MS = 1.0
POSITIONS_PER_CHAR = 0.24
FIXED_POSITIONS = 6
HOLD_BACK = HoldBack(5, GRADUAL)
"""The published watermark's."""
OTHER_MEMORY_BYTES = 6e9
"""Codec, watermark, CUDA contexts of four processes, activations."""
USABLE = 0.95
"""Share of a GPU's memory."""
KV_BYTES = 2
"""Keys and values are bfloat16."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CONTEXTS = (64, 512, 2048)
PREFILL_CHUNKS = (1, 64, 128, 256, 512, 1024)
FRAMES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Gpu:
    """The figures of a data sheet."""

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
    """The GPU has no matrix units for this number format."""


def floor(gpu: Gpu, fp8: bool = False, config: ModelConfig = MISOTTS_8B) -> CostTable:
    """Return the floor of a model on a GPU: weights in bfloat16 or FP8, keys and values in bfloat16.

    Raises:
        NoSuchPrecisionError: FP8 on a GPU without it.
        ValueError: the model does not fit into the GPU's memory.
    """
    tflop_s = gpu.fp8_tflop_s if fp8 else gpu.bf16_tflop_s
    if tflop_s is None:
        raise NoSuchPrecisionError(f"{gpu.name} has no FP8")
    dtype = "fp8" if fp8 else "bfloat16"
    floors = Floors(config, dtype, weight_bytes=1 if fp8 else 2, kv_bytes=KV_BYTES)
    matrix = {dtype: tflop_s, "float32": gpu.fp32_tflop_s, "tf32": gpu.bf16_tflop_s / 2}
    rates = Rates(gpu.memory_tb_s * COPY_SHARE * 1e12, {name: rate * 1e12 for name, rate in matrix.items()})

    def ms(work: Work) -> float:
        return max(rates.least_ms(work))

    def step_ms(batch: int, context: int) -> float:
        return ms(floors.backbone(batch, context)) + ms(floors.depth(batch))

    def decode_ms(rows: int, frames: int) -> float:
        # The watermark's network uses the device as well; its time is added here, where the device is.
        mark_ms = ms(Work(0, rows * frames * WATERMARK_FLOP, "tf32"))
        return ms(Work(CODEC.bytes, rows * frames * CODEC.flops, CODEC.dtype)) + mark_ms

    def watermark_ms(rows: int, frames: int) -> float:
        return rows * frames * WATERMARK_HOST_MS

    return CostTable(
        name=f"{gpu.name}, MisoTTS 8B, {'FP8' if fp8 else 'bf16'}",
        source="floor model",
        step=_grid(BATCHES, CONTEXTS, step_ms),
        prefill=Line(list(PREFILL_CHUNKS), [round(ms(floors.prefill(positions)), 4) for positions in PREFILL_CHUNKS]),
        decode=_grid(BATCHES, FRAMES, decode_ms),
        watermark=_grid(BATCHES, FRAMES, watermark_ms),
        prompt=PromptCost(PROMPT_MS, POSITIONS_PER_CHAR, FIXED_POSITIONS),
        hop_ms=HOP_MS,
        send_ms=SEND_MS,
        send_out_ms=SEND_OUT_MS,
        network_ms=0.0,
        speed_when_busy=[1.0, 0.5],
        overlaps=True,
        hold_back=HOLD_BACK,
        block_size=BLOCK_SIZE,
        kv_blocks=_kv_blocks(floors, gpu.memory_gb * 1e9),
        on_host=["watermark"],
    )


def _grid(rows: Sequence[int], columns: Sequence[int], ms: Callable[[int, int], float]) -> Grid:
    return Grid(list(rows), list(columns), [[round(ms(row, column), 4) for column in columns] for row in rows])


def _kv_blocks(floors: Floors, memory_bytes: float) -> int:
    """Return the number of KV blocks that fit beside the weights.

    Raises:
        ValueError: not even one utterance of full length fits.
    """
    c = floors.config
    audio_rows = c.audio_num_codebooks * c.audio_vocab_size
    weights = (layer_weights(c.backbone) + layer_weights(c.depth)) * floors.weight_bytes
    embeddings = ((c.text_vocab_size + audio_rows) * c.backbone.embed_dim + audio_rows * c.depth.embed_dim) * 2
    left = memory_bytes * USABLE - weights - embeddings - OTHER_MEMORY_BYTES
    blocks = int(left // (floors.position_bytes * BLOCK_SIZE))
    if blocks < 1 + c.max_seq_len // BLOCK_SIZE:
        raise ValueError(f"the model does not fit into {memory_bytes / 1e9:g} GB")
    return blocks
