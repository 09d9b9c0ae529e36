"""One side of the comparison: `measure.py STAGE FOLDER` prints the stage's milliseconds for a frame as JSON.

It runs with the modules of an older commit too, so it imports only what that one has.
"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.costs.codec import time_decode, time_watermark
from benchmarks.costs.section import Section
from benchmarks.costs.sizes import FULL
from misotts.config import ModelConfig
from misotts.decode.decoder import Decoder
from misotts.mimi import load_mimi
from misotts.watermark.watermarker import Watermarker

STREAMS, FRAMES = (1, 16), (1, 8)


def main() -> None:
    stage, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    sizes = replace(FULL, codec_rows=STREAMS, codec_frames=FRAMES, seconds_per_row=math.inf)
    tables: dict[str, list[dict[str, Any]]] = {}
    section = Section.collecting(sizes, tables)
    if stage == "decode":
        time_decode(section, Decoder(load_mimi(folder, ModelConfig.load(folder)), max(STREAMS)))
    else:
        time_watermark(section, Watermarker(folder, max(STREAMS)))
    frames = {f"{row['rows']} x {row['frames']}": row["ms"] / (row["rows"] * row["frames"]) for row in tables[stage]}
    print(json.dumps(frames))


if __name__ == "__main__":
    main()
