"""The report of a stage to the launcher when its GPU is lost, and the lines of its log."""

import logging
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

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
            self.link = SimpleNamespace(failed=self.failures.append, malformed=0)  # type: ignore[assignment]
            self._published = SimpleNamespace(publish=lambda *_: None)  # type: ignore[assignment]

        def progress(self) -> float:
            return 0.0

        def metrics(self) -> dict[str, Any]:
            return {}

    return Idle()


@pytest.mark.parametrize("lost", [["CUDA error: an illegal memory access was encountered"], []])
def test_a_failure_ends_the_stage_only_if_its_gpu_is_lost(stage: Any, monkeypatch: Any, lost: list[str]) -> None:
    errors = [RuntimeError(f"{error}\nCUDA kernel errors might be ...") for error in lost]
    monkeypatch.setattr(torch.cuda, "synchronize", Mock(side_effect=[*errors, None]))
    stage.check_device()
    stage._heartbeat()
    assert stage.failures == lost


def test_a_thread_that_dies_is_a_stage_that_fails(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", stage.thread_died)
    thread = threading.Thread(target=lambda: 1 // 0, name="acknowledgements")
    thread.start()
    thread.join()
    assert len(stage.failures) == 1
    assert "acknowledgements died: ZeroDivisionError" in stage.failures[0]


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
