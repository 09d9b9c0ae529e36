"""The launcher's copy of Triton's output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from misotts.serve.launcher import _copy_log

LINES = ["I1123 triton starts\n", "misotts decode: INFO loaded\n", "misotts decode: ERROR a batch failed\n"]


def test_the_log_has_all_and_stderr_what_a_stage_complains_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _copy_log(LINES, tmp_path / "log")
    assert (tmp_path / "log").read_text() == "".join(LINES)
    assert capsys.readouterr().err == LINES[2]


def test_a_full_disk_does_not_stop_the_stages(capsys: pytest.CaptureFixture[str]) -> None:
    read: list[str] = []

    def output() -> Iterator[str]:
        for line in LINES:
            read.append(line)
            yield line

    _copy_log(output(), Path("/dev/full"))
    assert read == LINES
    assert capsys.readouterr().err == LINES[2]
