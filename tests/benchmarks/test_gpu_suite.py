"""The GPU suite, rehearsed small on the CPU: every section runs, and a failure stays in its section."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.costs.engines import ENGINES
from benchmarks.costs.floors import MISOTTS_8B, Floors, Rates, Work
from benchmarks.costs.section import Section, SkippedError
from benchmarks.costs.sizes import SMALL
from benchmarks.gpu_suite.costs import cost_table
from benchmarks.gpu_suite.suite import Part, Suite, parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("suite")
    command = [sys.executable, "-m", "benchmarks.gpu_suite", "--small", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_section_ends(rehearsal: Path) -> None:
    (path,) = rehearsal.glob("gpu-suite-*.json")
    result = json.loads(path.read_text())
    states = {name: section["state"] for name, section in result["sections"].items()}
    assert states.pop("tests") == "skipped: no GPU here"
    assert states == {part.name: "done" for part in parts() if part.name != "tests"}
    assert result["failures"] == []
    assert len(result["sections"]["frames"]["checks"]) == 1 + len(ENGINES) * 2 * 4
    for name in ENGINES:
        tables = result["sections"][f"generate, {name}"]["tables"]
        assert [(row["batch"], row["context"]) for row in tables["step"]] == [
            (batch, context) for context in SMALL.contexts for batch in SMALL.batches
        ]
        assert all(row["x_floor"] > 0 for table in ("step", "depth", "backbone", "prefill") for row in tables[table])
    page = path.with_suffix(".md").read_text()
    assert all(f"## {part.name}\n" in page for part in parts())


def test_the_cost_table_is_one_that_the_planner_reads(rehearsal: Path) -> None:
    cost = pytest.importorskip("benchmarks.costs.table")
    (path,) = rehearsal.glob("costs-*.json")
    table = cost.read(path)
    assert table.max_batch == max(SMALL.batches)
    assert table.step_ms(samples=2, context=64, prefill=30) > 0


def run(*parts: Part, seconds: float = 60) -> Suite:
    suite = Suite("cpu", SMALL, seconds)
    for _ in suite.run(list(parts)):
        pass
    return suite


def test_a_failing_section_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_suite.suite.GRACE_S", 0.5)

    def raises(section: Section) -> None:
        section.row("rows", number=1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def dies(section: Section) -> None:
        section.row("rows", number=1)
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(section: Section) -> None:
        section.row("rows", number=1)
        time.sleep(60)

    def is_late(section: Section) -> None:
        section.row("rows", number=1)
        while True:
            section.hurry()

    def is_wrong(section: Section) -> None:
        section.check("frames", ok=False, error=1.0)

    def is_not_for_here(section: Section) -> None:
        raise SkippedError("no such library")

    ways = (raises, dies, hangs, is_late, is_wrong, is_not_for_here)
    suite = run(*(Part(way.__name__, way, 1) for way in ways))
    states = {name: section["state"] for name, section in suite.sections.items()}
    assert states == {
        "raises": "failed: RuntimeError: CUDA error: an illegal memory access was encountered",
        "dies": "failed: its process died",
        "hangs": "killed: it did not end in time",
        "is_late": "out of time",
        "is_wrong": "done",
        "is_not_for_here": "skipped: no such library",
    }
    assert all(suite.sections[way.__name__]["tables"] == {"rows": [{"number": 1}]} for way in ways[:4])
    assert [failure.split(":")[0] for failure in suite.failures] == ["raises", "dies", "hangs", "is_wrong"]
    assert multiprocessing.active_children() == []


def test_the_suite_ends_in_its_time() -> None:
    suite = run(Part("first", lambda section: None, 1), seconds=0)
    assert suite.sections["first"]["state"] == "not begun: the suite's time is up"


def test_without_a_stage_there_is_no_cost_table() -> None:
    assert cost_table(run(), {"machine": {}}) is None


def test_floors_are_those_of_the_published_shape() -> None:
    """Bytes and operations worked out by hand from the model's shapes."""
    floors = Floors(MISOTTS_8B, "bfloat16", weight_bytes=2, kv_bytes=2)
    backbone = floors.backbone(rows=64, context=400)
    assert backbone.bytes == pytest.approx(13.96e9 + 64 * 400 * 131_072, rel=1e-3)
    assert floors.backbone(256, 0).flops == pytest.approx(3.57e12, rel=1e-2)
    depth = floors.depth(rows=256)
    assert depth.bytes == pytest.approx(31 * 0.604e9 + 2 * 97.7e6 + 2 * (2048 + 1536) * 4096, rel=2e-3)
    assert depth.flops == pytest.approx(4.95e12 + 0.05e12, rel=1e-2)


def test_a_floor_is_the_larger_of_bytes_and_operations() -> None:
    rates = Rates(copy=2e12, matrix={"bfloat16": 5e14})
    assert rates.floor(Work(bytes=4e9, flops=5e11), ms=3.0) == {"bytes_ms": 2, "flops_ms": 1, "x_floor": 1.5}
