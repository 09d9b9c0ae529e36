"""Sizes of the measurements: the 8B shape on a GPU, and a toy shape through the same code on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.costs.floors import MISOTTS_8B
from demo.model import CONFIG, ENCODER_WIDTH
from misotts.config import ModelConfig

TOY = ModelConfig.from_dict(CONFIG)


@dataclass(frozen=True)
class Sizes:
    """The sizes of every measurement; the defaults are those on a GPU."""

    model: str = "MisoTTS 8B shape, random weights"
    config: ModelConfig = MISOTTS_8B
    watermark_width: int = 32
    """The published width."""
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    contexts: tuple[int, ...] = (64, 512, 1024, 2000)
    """Positions that are cached before the timed step."""
    frame_batches: tuple[int, ...] = (1, 64)
    frame_context: int = 400
    """Batches and context of the sections `frame`, which tell most."""
    pool_positions: int = 256 * (1024 + 32)
    """Positions of the KV pool; a batch and context that need more are left out."""
    prefill_chunks: tuple[int, ...] = (1, 64, 256, 512, 1024)
    """Positions of a prefill chunk."""
    codec_rows: tuple[int, ...] = (1, 8, 64, 256)
    codec_frames: tuple[int, ...] = (1, 2, 4, 8)
    streams: tuple[int, ...] = (1, 4, 16, 64, 128, 256)
    """Streams at once in the pipeline."""
    pipeline_frames: int = 25
    server_streams: tuple[int, ...] = (1, 16, 64)
    """Closed loops against the server: callers, each with one call after another."""
    server_rates: tuple[float, ...] = (10,)
    """Open loops against the server: calls per second."""
    server_points: tuple[float, float] = (20, 400)
    """The server's operating points: calls per second of the one for latency, streams of the one for throughput."""
    server_seconds: float = 12
    server_warm_up_s: float = 10
    """Time before each operating point in which its calls do not count: until then fewer callers listen."""
    peer_batches: tuple[int, ...] = (1, 16, 64)
    peer_frames: int = 12
    peer_rounds: int = 3
    compiler: str = "inductor"
    """torch.compile's backend for the peer."""
    copy_bytes: int = 4 << 30
    matrix: int = 8192
    """Rows and columns of the matrices of the timed product."""
    repeats: int = 10
    seconds_per_row: float = 0.5


FULL = Sizes()
SMALL = replace(
    FULL,
    model="toy shape, random weights",
    config=TOY,
    watermark_width=ENCODER_WIDTH,
    batches=(1, 3),
    contexts=(5, 130),
    frame_batches=(1, 3),
    frame_context=50,
    pool_positions=4 * 160,
    prefill_chunks=(1, 40),
    codec_rows=(1, 3),
    codec_frames=(1, 2),
    streams=(1, 3),
    pipeline_frames=8,
    server_streams=(2,),
    server_rates=(1,),
    server_points=(1, 2),
    server_seconds=2,
    server_warm_up_s=1,
    peer_batches=(1,),
    peer_frames=2,
    peer_rounds=1,
    compiler="eager",  # traced, not compiled
    copy_bytes=8 << 20,
    matrix=256,
    repeats=3,
    seconds_per_row=0.2,
)
