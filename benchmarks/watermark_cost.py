"""Milliseconds of the watermark for a chunk, and the number of streams that a core carries.

    python -m benchmarks.watermark_cost

Measures the demo's network, and the published architecture at full width with random weights, on one thread.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.costs.codec import time_watermark
from benchmarks.costs.section import Section
from benchmarks.costs.sizes import FULL
from benchmarks.record import save
from demo.model import make_silentcipher
from misotts.config import FRAME_MS
from misotts.watermark.watermarker import Watermarker, hold_back

SIZES = replace(FULL, codec_rows=(1, 16), codec_frames=(1, 8), repeats=10, seconds_per_row=math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/random"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as published:
        make_silentcipher(Path(published) / "silentcipher", SIZES.watermark_width)
        for name, folder in (("demo", arguments.model), ("published size", Path(published))):
            tables: dict[str, list[dict[str, Any]]] = {}
            time_watermark(Section.collecting(SIZES, tables), Watermarker(folder, max(SIZES.codec_rows)))
            chunks = [
                {**row, "streams_per_core": round(row["rows"] * row["frames"] * FRAME_MS / row["ms"], 1)}
                for row in tables["watermark"]
            ]
            figures[name] = {"hold_back": asdict(hold_back(folder)), "chunks": chunks}
            print(name, *chunks, sep="\n")
    print(save("watermark-cost", figures))


if __name__ == "__main__":
    main()
