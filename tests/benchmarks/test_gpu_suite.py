"""The GPU suite, rehearsed small on the CPU: every section runs, and a failure stays in its section."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.costs.engines import ENGINES
from benchmarks.costs.floors import MISOTTS_8B, Floors, Rates, Work
from benchmarks.costs.section import Section, SkippedError
from benchmarks.costs.sizes import SMALL
from benchmarks.gpu_suite.__main__ import SECONDS, START_S
from benchmarks.gpu_suite.carried import ARCHIVE
from benchmarks.gpu_suite.costs import cost_table
from benchmarks.gpu_suite.kernels import CHOICES, predicted_ms
from benchmarks.gpu_suite.suite import GRACE_S, Part, Suite, parts
from misotts.engines.table import WeightType

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
TRACKED, WHEELS, SERVER = 21 * MIB, 7 * MIB, 36 * MIB
"""Most bytes of the tracked files, of `make gpu-suite-wheels` and of `make gpu-server-files`: 64 MiB may travel to the
GPU machine."""

THERE = {
    *("einops", "grpcio", "huggingface-hub", "numpy", "prometheus-client", "protobuf", "psutil", "pyyaml", "rich"),
    *("safetensors", "sentencepiece", "tokenizers", "torch", "transformers", "typer"),
}
"""Packages of which the GPU machine's own releases are used."""
NOT_NEEDED = {
    "av": "reads files of voices, and is imported when the first one comes",
    "misotts-client": "comes with the tree",
    "misotts-gateway": "comes with the tree",
    "sphn": "moshi imports it only to read files",
}
"""Packages that the suite does without, and why."""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Run the suite in two commands, of which the second goes on where the first one stopped; return their folders."""
    folders, last = [], tmp_path_factory.mktemp("suite") / "last.json"
    for options in (["--only", "rates"], ["--resume"]):
        folders.append(tmp_path_factory.mktemp("suite"))
        files = [f"--out={folders[-1]}", f"--last={last}"]
        command = [sys.executable, "-m", "benchmarks.gpu_suite", "--small", *files, *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    return folders


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the sections of a result, and its page."""
    (path,) = folder.glob("gpu-suite-*.json")
    result = json.loads(path.read_text())
    assert result["failures"] == []
    return result["sections"], path.with_suffix(".md").read_text()


@pytest.mark.long
def test_every_section_ends(rehearsal: list[Path]) -> None:
    sections, page = read(rehearsal[1])
    states = {name: section["state"] for name, section in sections.items()}
    assert states.pop("tests") == "skipped: no GPU here"
    assert states == {part.name: "done" for part in parts() if part.name != "tests" and not part.alone}
    assert sections["rates"] == read(rehearsal[0])[0]["rates"], "it was measured again"
    assert len(sections["frames"]["checks"]) == 1 + len(ENGINES) * 2 * 4
    for name in ENGINES:
        tables = sections[f"generate, {name}"]["tables"]
        assert [(row["batch"], row["context"]) for row in tables["step"]] == [
            (batch, context) for context in SMALL.contexts for batch in SMALL.batches
        ]
        assert all(row["x_floor"] > 0 for table in ("step", "depth", "backbone", "prefill") for row in tables[table])
        frames = sections[f"frame, {name}"]["tables"]["step"]
        assert [row["batch"] for row in frames] == list(SMALL.frame_batches)
    for kind in ("full", "int8"):
        assert all(row["predicted_ms"] > 0 for row in sections["kernels"]["tables"][f"frame, {kind}"])
    assert all(f"## {name}\n" in page for name in sections)


def test_the_sections_of_most_worth_fit_into_one_command() -> None:
    names = [part.name for part in parts()]
    first = parts()[: names.index("kernels, pdl") + 1]
    assert sum(part.seconds for part in first) <= SECONDS - START_S - GRACE_S
    for server in (part for part in parts() if part.alone):
        assert server.seconds <= 300


def test_what_travels_to_the_gpu_machine_fits() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a clone")
    sizes = {
        name: (ROOT / name).lstat().st_size for name in tracked.stdout.split("\0") if name and (ROOT / name).exists()
    }
    largest = sorted(sizes, key=sizes.__getitem__)[-3:]
    assert sum(sizes.values()) < TRACKED, f"{sum(sizes.values()) / MIB:.1f} MiB, the largest are {largest}"
    assert sum(file.stat().st_size for file in (ROOT / ".whl").glob("*")) < WHEELS
    assert not (ROOT / ARCHIVE).exists() or (ROOT / ARCHIVE).stat().st_size < SERVER
    assert TRACKED + WHEELS + SERVER <= 64 * MIB


def test_every_dependency_is_on_the_gpu_machine_or_travels_there() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    carried = next(line for line in makefile.splitlines() if line.startswith("GPU_PACKAGES")).split()[2:]
    needed: set[str] = set()
    for folder in (ROOT, ROOT / "client", ROOT / "gateway"):
        text = (folder / "pyproject.toml").read_text()
        listed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
        assert listed
        needed |= {name.lower() for name in re.findall(r'^ +"([\w-]+)', listed[1], re.MULTILINE)}
    assert needed - THERE - set(carried) - set(NOT_NEEDED) == set()


def test_the_documented_predictions_are_the_models() -> None:
    text = (ROOT / "docs" / "graph-engine.md").read_text()
    table = text.partition("| choice | full, batch 1 |")[2].partition("\n\n")[0].splitlines()[2:]
    rates, checked = Rates(3.0e12, {"bfloat16": 8e14}), 0
    types: tuple[WeightType, ...] = ("full", "full", "int8", "int8")
    for line in table:
        name, *cells = (cell.strip().removesuffix(" ms") for cell in line.strip("|").split("|"))
        for cell, weight_type, batch in zip(cells, types, (1, 64, 1, 64), strict=True):
            if cell:
                floors = Floors(MISOTTS_8B, "bfloat16", weight_bytes=1 if weight_type == "int8" else 2, kv_bytes=2)
                found = predicted_ms(floors, rates, batch, 400, CHOICES[weight_type][name])
                assert found == pytest.approx(float(cell), abs=0.06), (name, weight_type, batch)
                checked += 1
    assert checked == 2 * sum(map(len, CHOICES.values()))


@pytest.mark.long
def test_the_cost_table_is_one_that_the_planner_reads(rehearsal: list[Path]) -> None:
    cost = pytest.importorskip("benchmarks.costs.table")
    (path,) = rehearsal[1].glob("costs-*.json")
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
