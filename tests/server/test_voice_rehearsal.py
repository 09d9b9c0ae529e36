"""All stages of the training of the demo's voice, at tiny sizes, from text to the judged server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.voice import stages
from demo.voice.everyday import KINDS

GLOSSES = (
    '00000000 00 n 01 word 0 000 | the state of a small thing; "the dog slept under the table"; "she was late again"',
    '00000000 00 n 01 word 0 000 | a place where people wait; "a long and quiet road"',
)


@pytest.fixture
def work(tmp_path: Path) -> stages.Work:
    """A work folder with a WordNet of a few lines, so that nothing is downloaded."""
    data = tmp_path / "work" / "wordnet" / "usr" / "share" / "wordnet"
    data.mkdir(parents=True)
    for part in ("verb", "noun", "adj", "adv"):
        (data / f"data.{part}").write_text("\n".join(GLOSSES) + "\n", encoding="latin-1")
    counts = [f"noun%1:{number}:00:: 1 9" for number in KINDS.values()]
    (data / "cntlist.rev").write_text("\n".join(counts) + "\n", encoding="latin-1")
    return stages.Work(tmp_path / "work", tmp_path / "work" / "model", stages.REHEARSAL)


@pytest.mark.timeout(600)  # 45 s of CPU time, minutes on a busy machine
def test_every_stage_runs_and_the_model_speaks_through_the_server(work: stages.Work) -> None:
    for name, stage in stages.STAGES.items():
        if name != "resume":
            stage(work)
    summary = json.loads((work.folder / "summary.json").read_text(encoding="utf-8"))
    assert [row["sentences"] for row in summary["speakers"]] == [stages.REHEARSAL.judged] * 2
    assert (work.folder / "voices" / "high.flac").exists()
    assert (work.folder / "codes.safetensors").exists()
