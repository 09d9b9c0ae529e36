"""What a stage reports to the launcher when its GPU is lost, and the lines of its log."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from misotts.serve.stage.stage import Stage, _LineFormatter


@pytest.fixture
def stage() -> Any:
    """Return a stage on a GPU, without metrics."""

    class Idle(Stage):
        name, device = "decode", "cuda"

        def __init__(self) -> None:
            self.failures: list[str] = []
            self.link = SimpleNamespace(failed=self.failures.append)  # type: ignore[assignment]
            self._published = SimpleNamespace(publish=lambda *_: None)  # type: ignore[assignment]

        def idle_s(self) -> float:
            return 0.0

        def metrics(self) -> dict[str, Any]:
            return {}

    return Idle()


def test_a_lost_gpu_ends_the_stage(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    stage.check_device()
    stage._heartbeat()
    assert stage.failures == ["CUDA error: an illegal memory access was encountered"]


def test_a_failure_without_harm_to_the_gpu_does_not_end_the_stage(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    stage.check_device()
    stage._heartbeat()
    assert stage.failures == []


def test_every_line_of_a_traceback_has_the_prefix_of_the_stage() -> None:
    formatter = _LineFormatter("misotts decode: %(levelname)s ")
    try:
        raise ValueError("thirteen")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("misotts", logging.ERROR, "", 0, "a batch of %d chunks failed", (3,), info)
    lines = formatter.format(record).splitlines()
    assert lines[0] == "misotts decode: ERROR a batch of 3 chunks failed"
    assert lines[-1] == "misotts decode: ERROR ValueError: thirteen"
    assert len(lines) >= 4
    assert all(line.startswith("misotts decode: ERROR ") for line in lines)
