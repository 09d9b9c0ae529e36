"""Milliseconds of the watermark for a chunk, and the number of streams that a core carries.

    python -m benchmarks.watermark_cost

Measures the demo's network, and the published architecture at full width with random weights, on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.costs.grids import LeastTimes, time_watermark
from benchmarks.record import save
from demo.model import make_silentcipher
from misotts.config import FRAME_MS
from misotts.watermark.watermarker import Watermarker, delay_frames

STREAMS = (1, 16)
FRAMES = (1, 8)
PUBLISHED_WIDTH = 32
REPEATS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as published:
        make_silentcipher(Path(published) / "silentcipher", PUBLISHED_WIDTH)
        for name, folder in (("demo", arguments.model), ("published size", Path(published))):
            recorder = LeastTimes(REPEATS)
            time_watermark(recorder, Watermarker(folder, max(STREAMS)), STREAMS, FRAMES)
            chunks = [
                {**row, "streams_per_core": round(row["rows"] * row["frames"] * FRAME_MS / row["ms"], 1)}
                for row in recorder.rows()["watermark"]
            ]
            figures[name] = {"delay_frames": delay_frames(folder), "chunks": chunks}
            print(name, *chunks, sep="\n")
    print(save("watermark-cost", figures))


if __name__ == "__main__":
    main()
