"""The demo's voice through the real server, by the judges of demo/voice: a few sentences of `make voice-check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.model import make_demo
from demo.voice import evaluate

COUNT = 6
WORD_ERROR_RATE = 0.45
"""Of so few sentences; that of all of them is in `evaluate.LIMITS`."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("models") / "demo"
    make_demo(folder)
    with evaluate.connected(folder) as client:
        yield evaluate.of_model(client, folder, COUNT)


def test_the_voice_is_understood(figures: dict[str, Any]) -> None:
    assert [row["word_error_rate"] for row in figures["speakers"]] == [pytest.approx(0, abs=WORD_ERROR_RATE)] * 2


def test_every_other_figure_is_within_its_limit(figures: dict[str, Any]) -> None:
    """Ends, lengths, loudness, seams, DNSMOS, the mark in 5 s, the pitch of both SPEAKERs and of registered voices."""
    assert [fault for fault in evaluate.faults(figures) if "word_error_rate" not in fault] == []
