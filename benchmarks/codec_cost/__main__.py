"""Milliseconds of decode and watermark for a frame, on one thread of the CPU: an older commit's and today's.

    python -m benchmarks.codec_cost [--before 8b8f63e] [--rounds 3]

Three sides take turns, each stage in a process of its own: the older commit, today's code without the stages' settings
of `malloc`, and today's code with them. The model is `models/random`; the watermark is also timed at its published size
with random weights, by today's code alone. A call has 1 or 16 streams with 1 or 8 frames each.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.costs.sizes import FULL
from benchmarks.record import save
from demo.model import make_silentcipher
from misotts.serve.tritonserver import KEEP_MEMORY

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "random"
PLAIN, TODAY = "today, malloc as it comes", "today"
STAGES = ("decode", "watermark")

Figures = dict[str, float]
"""Milliseconds for a frame by streams and frames of a call."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="8b8f63e", help="an older commit")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as older, tempfile.TemporaryDirectory() as published:
        archive = subprocess.run(["git", "archive", arguments.before], cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(older, filter="data")
        sides = {arguments.before: (Path(older), {}), PLAIN: (ROOT, {}), TODAY: (ROOT, KEEP_MEMORY)}
        rounds = [
            {(stage, side): _measure(stage, *of_side, MODEL) for stage in STAGES for side, of_side in sides.items()}
            for _ in range(arguments.rounds)
        ]
        make_silentcipher(Path(published) / "silentcipher", FULL.watermark_width)
        alone = _measure("watermark", ROOT, KEEP_MEMORY, Path(published))
    figures = {
        "rounds": arguments.rounds,
        "ms_per_frame": {
            stage: {call: _compare(rounds, stage, call, arguments.before) for call in rounds[0][stage, TODAY]}
            for stage in STAGES
        },
        "watermark_of_published_size_ms_per_frame": {call: round(ms, 1) for call, ms in alone.items()},
    }
    print(json.dumps(figures, indent=1))
    print(save("codec-cost", figures))


def _measure(stage: str, tree: Path, settings: dict[str, str], model: Path) -> Figures:
    """Time a stage of the code in `tree`, with `settings` in the environment."""
    inherited = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}
    path = os.pathsep.join(map(str, (tree, tree / "client", tree / "gateway")))
    environment = {**inherited, **settings, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("measure.py")
    command = [sys.executable, "-P", str(script), stage, str(model)]
    told = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: Figures = json.loads(told.splitlines()[-1])
    return figures


def _compare(rounds: list[dict[tuple[str, str], Figures]], stage: str, call: str, before: str) -> dict[str, Any]:
    """Return each side's median, and ratios round by round: median, lowest, highest."""
    found = [{side: each[stage, side][call] for side in (before, PLAIN, TODAY)} for each in rounds]
    medians = {side: round(statistics.median(each[side] for each in found), 3) for side in found[0]}
    ratios = {}
    for side in (before, PLAIN):
        each_round = [each[TODAY] / each[side] for each in found]
        spread = statistics.median(each_round), min(each_round), max(each_round)
        ratios[f"{TODAY} / {side}"] = [round(ratio, 2) for ratio in spread]
    return medians | ratios


if __name__ == "__main__":
    main()
