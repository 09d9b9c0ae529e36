"""tritonserver's process, with shell commands in its place."""

import os
import time
from pathlib import Path

import pytest

from misotts.serve.triton_process import TritonProcess, describe_end
from tests.support.waiting import wait_until


@pytest.fixture
def process(tmp_path: Path) -> TritonProcess:
    return TritonProcess(tmp_path / "log")


def start(process: TritonProcess, script: str) -> None:
    process.start(["sh", "-c", script], os.environ)


def test_it_ends_by_itself(process: TritonProcess) -> None:
    start(process, "echo 'error: creating server'; exit 3")
    wait_until(lambda: process.has_ended)
    reason = process.explain_end("decode died")
    assert reason == "tritonserver ended with status 3; Triton says: creating server"
    process.stop(1)


def test_it_is_killed(process: TritonProcess) -> None:
    start(process, "echo 'error: not the reason'; sleep 60")
    process.kill()
    assert process.explain_end("decode died") == describe_end(-9)


def test_it_runs_while_a_stage_dies(process: TritonProcess) -> None:
    start(process, "sleep 60")
    assert process.explain_end("decode died") == "decode died"
    process.stop(5)
    assert process.has_ended


def test_it_is_stopped_by_force_with_its_children(process: TritonProcess, tmp_path: Path) -> None:
    start(process, f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait; sleep 60")
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    child = int((tmp_path / "child").read_text())
    began = time.monotonic()
    process.stop(0.2)
    assert 0.2 < time.monotonic() - began < 5
    assert process.has_ended
    wait_until(lambda: not Path(f"/proc/{child}/exe").exists())


def test_it_was_never_started(process: TritonProcess) -> None:
    process.stop(1)
    assert not process.has_ended


def test_an_end_is_described() -> None:
    assert describe_end(1) == "tritonserver ended with status 1"
    assert describe_end(-11) == "tritonserver was killed by signal 11"
    oom = "tritonserver was killed by signal 9, perhaps by the kernel because memory ran out (see dmesg)"
    assert describe_end(-9) == oom
