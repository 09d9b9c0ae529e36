"""This machine's cost table, measured small: every part of it is present and plausible."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.capacity import measure
from benchmarks.costs.table import from_json
from misotts.watermark.watermarker import hold_back

pytestmark = pytest.mark.long


def test_the_stages_alone(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = replace(measure.SIZES, batches=(1, 4), contexts=(16, 64), prefill_chunks=(1, 256), repeats=3)
    sizes = replace(sizes, codec_rows=(1, 4), codec_frames=(1, 8))
    monkeypatch.setattr(measure, "WORK", {stage: measure.WORK[stage] for stage in ("decode", "watermark")})
    threads = torch.get_num_threads()
    table = measure.measure_alone(demo_folder, sizes, rounds=1)
    torch.set_num_threads(threads)
    assert from_json(table.to_json()) == table
    assert table.source == "measured"
    assert table.max_batch == 4
    assert table.hold_back == hold_back(demo_folder)
    assert all(0.1 < ms < 5000 for grid in (table.step, table.decode, table.watermark) for row in grid.ms for ms in row)
    assert table.watermark.ms[1][1] > table.watermark.ms[0][0]  # 32 frames and one
    assert table.prefill.ms[1] > table.prefill.ms[0]
    assert 0.1 < table.prompt.positions_per_char < 1
    assert table.speed_when_busy[0] == 1 >= table.speed_when_busy[1] > 0
