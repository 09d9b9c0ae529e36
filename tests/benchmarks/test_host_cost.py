"""The benchmark of the host's cost: stand-ins that behave as the stages do, and the shares of functions."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.host_cost import callers, profiles
from benchmarks.host_cost.__main__ import ms_per_chunk
from benchmarks.host_cost.serve import CHECKOUT, write_repository
from benchmarks.host_cost.stand_ins import FreeDecoder, FreeNetwork, FreeWatermarker
from misotts.config import FRAME_SAMPLES
from misotts.decode.decoder import Decoder
from misotts.slots import Piece
from misotts.watermark import watermarker
from misotts.watermark.watermarker import Watermarker
from tests.support.fake_triton import answer, running
from tests.support.gateway import running_gateway


def test_only_the_stages_of_stand_ins_differ_from_the_servers(tmp_path: Path) -> None:
    repository = write_repository(tmp_path, ["generate", "network"])
    changed = {
        path.parts[-3]
        for path in repository.rglob("*")
        if path.is_file() and path.read_bytes() != (CHECKOUT / path.relative_to(tmp_path)).read_bytes()
    }
    assert changed == {"generate", "watermark"}
    assert "import NetworkStage as TritonPythonModel" in (repository / "watermark" / "1" / "model.py").read_text()


@pytest.mark.parametrize("cuts", [[6], [1, 1, 4], [3, 0, 2, 1]])
def test_stand_ins_of_the_watermark_send_as_much_audio_and_as_late(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch, cuts: list[int]
) -> None:
    def lengths(marker: FreeWatermarker | Watermarker) -> list[int]:
        found = []
        for number, frames in enumerate(cuts):
            audio = np.full(frames * FRAME_SAMPLES, 0.1, np.float32)
            ((_, marked),) = marker.mark_each([Piece(1, number == 0, audio, number == len(cuts) - 1)])
            found.append(len(marked))
        return found

    real = lengths(Watermarker(demo_folder, 2))
    assert lengths(FreeWatermarker(demo_folder, 2)) == real
    monkeypatch.setattr(watermarker, "MarkNetwork", FreeNetwork)
    assert lengths(Watermarker(demo_folder, 2)) == real


def test_the_stand_in_of_the_decoder_has_all_its_methods() -> None:
    assert {name for name in vars(Decoder) if not name.startswith("_")} - {"decode"} <= set(dir(FreeDecoder))


def test_a_gap_in_an_utterance_that_is_cut_off_is_heard(tmp_path: Path) -> None:
    """The measurement ends before long utterances do."""

    def script(*_: object) -> Iterator[object]:
        yield answer(FRAME_SAMPLES, level=0.1)
        time.sleep(0.5)
        yield answer(FRAME_SAMPLES, level=0.1)
        time.sleep(1.5)
        yield answer(FRAME_SAMPLES, level=0.1, finish="length")

    with running(f"{tmp_path}/grpc:1") as triton:
        triton.script = script
        with running_gateway(triton.url) as gateway:
            began = time.monotonic() + 0.2
            heard = asyncio.run(callers._hear(gateway.url, 1, 60.0, began, began + 1.0))
    assert heard.late_s == pytest.approx([0.42], abs=0.2)
    assert heard.errors == []


def test_the_time_of_a_chunk_is_that_of_the_stage_over_its_chunks() -> None:
    spent = {"misotts_decode_busy_seconds_total": 0.5, "misotts_decode_chunks_total": 1000.0}
    spent |= {"misotts_watermark_busy_seconds_total": 0.2, "misotts_watermark_chunks_total": 800.0}
    assert ms_per_chunk(spent, "busy") == {"decode": 0.5, "watermark": 0.25}


def test_functions_have_their_own_shares_without_waits(tmp_path: Path) -> None:
    lines = (
        "run (/a/misotts/serve/stage/worker.py:80);send (/a/misotts/serve/stage/tensors.py:45) 3",
        "run (/a/misotts/serve/stage/worker.py:80);send (/a/misotts/serve/stage/tensors.py:44) 1",
        "run (/b/python3.11/threading.py:2);Condition.wait (/b/python3.11/threading.py:327) 90",
        "work (/a/gateway/misotts_gateway/core.py:9) 1",
    )
    (tmp_path / "decode").write_text("\n".join(lines))
    assert profiles.read(["decode"], tmp_path) == {
        "decode": [
            {"function": "send (misotts/serve/stage/tensors.py)", "share": 0.8},
            {"function": "work (misotts_gateway/core.py)", "share": 0.2},
        ]
    }
