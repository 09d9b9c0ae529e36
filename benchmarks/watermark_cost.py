"""What the watermark costs: milliseconds for a chunk, and streams that a core carries.

    python -m benchmarks.watermark_cost

The demo's network, and the published architecture at full width with random weights, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import save
from benchmarks.silentcipher_peer import make_published_folder
from misotts.config import FRAME_SAMPLES
from misotts.slots import Piece
from misotts.watermark.watermarker import Watermarker, delay_frames

STREAMS = (1, 16)
FRAMES = (1, 8)
WARM_UP = 4
KEY = bytes([1, 2, 3, 4, 5])


def chunk_ms(folder: Path, streams: int, frames: int, chunks: int) -> dict[str, Any]:
    watermarker = Watermarker(folder, slots=streams, key=KEY)
    noise = 0.05 * np.random.default_rng(0).standard_normal((WARM_UP + chunks, streams, frames * FRAME_SAMPLES))
    taken = []
    for n, chunk in enumerate(noise.astype(np.float32)):
        pieces = [Piece(slot, n == 0, samples, last=False) for slot, samples in enumerate(chunk)]
        start = time.perf_counter()
        watermarker.mark(pieces)
        taken.append(time.perf_counter() - start)
    ms = statistics.median(taken[WARM_UP:]) * 1000
    audio_ms = frames * 80
    return {
        "streams": streams,
        "frames": frames,
        "ms": round(ms, 2),
        "streams_per_core": round(streams * audio_ms / ms, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        full = Path(temporary)
        make_published_folder(full / "silentcipher")
        figures = {
            name: {
                "delay_frames": delay_frames(folder),
                "chunks": [chunk_ms(folder, s, f, chunks) for s in STREAMS for f in FRAMES],
            }
            for name, folder, chunks in (("demo", arguments.model, 30), ("published size", full, 4))
        }
    print(save("watermark-cost", figures))
    for name, row in figures.items():
        print(name, row)


if __name__ == "__main__":
    main()
