"""The launcher's copy of Triton's output, and what it makes of Triton's end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from misotts.serve import triton_log
from misotts.serve.triton_log import TritonLog, ending

LINES = ["I1123 triton starts\n", "misotts decode: INFO loaded\n", "misotts decode: ERROR a batch failed\n"]
BUSY_PORT = "E1123 01:49:15.408497 23559 main.cc:288] failed to start HTTP service: Unavailable\n"
NO_GPU = "E1123 01:49:14.1 23559 server.cc:241] CudaDriverHelper has not been initialized.\n"


def test_the_log_has_all_and_stderr_what_a_stage_complains_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = TritonLog(tmp_path / "log")
    log.copy(LINES)
    assert log.keep(tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "".join(LINES)
    assert capsys.readouterr().err == LINES[2]


@pytest.mark.parametrize("file", ["/dev/full", "/proc/none/log"], ids=["full disk", "no such folder"])
def test_what_cannot_be_written_does_not_stop_the_stages(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    read: list[str] = []

    def output() -> Iterator[str]:
        for line in LINES:
            read.append(line)
            yield line

    TritonLog(Path(file)).copy(output())
    assert read == LINES
    assert capsys.readouterr().err == LINES[2]


def test_the_log_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_log, "ROLL_BYTES", 1000)
    log, folder = TritonLog(tmp_path / "log"), tmp_path / "log"
    log.copy(f"I1123 {number:03d}\n" for number in range(995))
    assert sum(file.stat().st_size for file in folder.parent.iterdir()) <= 2000
    assert log.keep(tmp_path / "kept")
    kept = (tmp_path / "kept").read_text().splitlines()
    assert kept[-1] == "I1123 994"
    assert kept == [f"I1123 {number:03d}" for number in range(995 - len(kept), 995)]
    assert len(kept) >= 100  # the file before the last is there too


def test_no_log_is_not_spoken_of(tmp_path: Path) -> None:
    log = TritonLog(tmp_path / "log")
    assert not log.keep(tmp_path / "kept")
    log.copy(LINES)
    assert not log.keep(tmp_path / "none" / "kept")


def test_triton_is_quoted_where_it_may_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = TritonLog(tmp_path / "log")
    log.copy([NO_GPU, *LINES])
    assert log.complaint() == ""
    log.copy([BUSY_PORT, NO_GPU])
    assert log.complaint() == "; Triton says: failed to start HTTP service: Unavailable"
    monkeypatch.setattr(triton_log, "REASON_S", 0.0)
    assert log.complaint() == "", "a complaint of long ago is no reason"


def test_an_ending_is_told_in_words() -> None:
    assert ending(1) == "tritonserver ended with status 1"
    assert ending(-11) == "tritonserver was killed by signal 11"
    assert ending(-9) == "tritonserver was killed by signal 9, perhaps by the kernel because memory ran out (see dmesg)"
