"""What is measured: on a GPU the 8B shape, on a CPU a toy through the same code."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.costs.floors import MISOTTS_8B
from demo.model import CONFIG, ENCODER_WIDTH
from misotts.config import ModelConfig

TOY = ModelConfig.from_dict(CONFIG)

PUBLISHED_WATERMARK_WIDTH = 32


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    model: str
    config: ModelConfig
    watermark_width: int
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    """Positions cached before the step that is timed."""
    pool_positions: int
    """Of the KV pool, which is filled before anything is timed; a batch and context that need more are left out."""
    prefill_chunks: tuple[int, ...]
    """Positions of a prefill chunk."""
    codec_rows: tuple[int, ...]
    codec_frames: tuple[int, ...]
    streams: tuple[int, ...]
    """Streams at once in the pipeline."""
    pipeline_frames: int
    peer_batches: tuple[int, ...]
    peer_frames: int
    peer_rounds: int
    compiler: str
    """torch.compile's backend for the peer."""
    copy_bytes: int
    matrix: int
    """Rows and columns of the matrices whose product is timed."""
    repeats: int
    seconds_per_row: float


FULL = Sizes(
    model="MisoTTS 8B shape, random weights",
    config=MISOTTS_8B,
    watermark_width=PUBLISHED_WATERMARK_WIDTH,
    batches=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    contexts=(64, 512, 1024, 2000),
    pool_positions=256 * (1024 + 32),
    prefill_chunks=(1, 64, 256, 512, 1024),
    codec_rows=(1, 8, 64, 256),
    codec_frames=(1, 2, 4, 8),
    streams=(1, 4, 16, 64, 128, 256),
    pipeline_frames=25,
    peer_batches=(1, 16, 64),
    peer_frames=12,
    peer_rounds=3,
    compiler="inductor",
    copy_bytes=4 << 30,
    matrix=8192,
    repeats=10,
    seconds_per_row=0.5,
)

SMALL = Sizes(
    model="toy shape, random weights",
    config=TOY,
    watermark_width=ENCODER_WIDTH,
    batches=(1, 3),
    contexts=(5, 130),
    pool_positions=4 * 160,
    prefill_chunks=(1, 40),
    codec_rows=(1, 3),
    codec_frames=(1, 2),
    streams=(1, 3),
    pipeline_frames=8,
    peer_batches=(1,),
    peer_frames=2,
    peer_rounds=1,
    compiler="eager",  # traced, not compiled
    copy_bytes=8 << 20,
    matrix=256,
    repeats=3,
    seconds_per_row=0.2,
)
