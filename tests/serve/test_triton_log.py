"""The launcher's copy of Triton's output."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from misotts.serve import triton_log
from misotts.serve.triton_log import TritonLog

LINES = ["I1123 triton starts\n", "misotts decode: INFO loaded\n", "misotts decode: ERROR a batch failed\n"]
BUSY_PORT = "E1123 01:49:15.408497 23559 main.cc:288] failed to start HTTP service: Unavailable\n"
NO_GPU = "E1123 01:49:14.1 23559 server.cc:241] CudaDriverHelper has not been initialized.\n"


def test_the_log_has_all_lines_and_stderr_the_errors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = TritonLog(tmp_path / "log")
    log.copy(LINES)
    assert log.save(tmp_path / "saved")
    assert (tmp_path / "saved").read_text() == "".join(LINES)
    assert capfd.readouterr().err == LINES[2]


@pytest.mark.parametrize("file", ["/dev/full", "/proc/none/log"], ids=["full disk", "no such folder"])
def test_lines_are_read_even_if_they_cannot_be_written(file: str, capfd: pytest.CaptureFixture[str]) -> None:
    read: list[str] = []

    def output() -> Iterator[str]:
        for line in LINES:
            read.append(line)
            yield line

    TritonLog(Path(file)).copy(output())
    assert read == LINES
    assert capfd.readouterr().err == LINES[2]


def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_log, "ROLL_BYTES", 1000)
    folder = tmp_path / "run"
    folder.mkdir()
    log = TritonLog(folder / "log")
    log.copy(f"I1123 {number:03d}\n" for number in range(995))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 2000
    assert log.save(tmp_path / "saved")
    saved = (tmp_path / "saved").read_text().splitlines()
    assert saved[-1] == "I1123 994"
    assert saved == [f"I1123 {number:03d}" for number in range(995 - len(saved), 995)]
    assert len(saved) >= 100  # the older file is part of it


def test_save_returns_false_if_nothing_is_saved(tmp_path: Path) -> None:
    log = TritonLog(tmp_path / "log")
    assert not log.save(tmp_path / "saved")
    log.copy(LINES)
    assert not log.save(tmp_path / "none" / "saved")


def test_only_a_recent_error_of_triton_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = TritonLog(tmp_path / "log")
    log.copy([NO_GPU, *LINES])
    assert log.recent_error() == ""
    log.copy([BUSY_PORT, NO_GPU])
    assert log.recent_error() == "; Triton says: failed to start HTTP service: Unavailable"
    monkeypatch.setattr(triton_log, "REASON_S", 0.0)
    assert log.recent_error() == ""
