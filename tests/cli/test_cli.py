"""The command `misotts`: what it says of a model, and of options that cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from demo import speak
from misotts.cli.main import app
from misotts.cli.serve import parse_size

DEMO = Path("models/demo")


@pytest.mark.parametrize(
    ("text", "size"), [("20GiB", 20 * 2**30), ("512MiB", 2**29), ("1.5GB", 1_500_000_000), ("7KB", 7000), ("9", 9)]
)
def test_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "20X", "GiB", "-1GiB", "0", "nanGiB", "infGiB", "1e400"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="20GiB"):
        parse_size(text)


def test_info_is_in_words() -> None:
    found = CliRunner().invoke(app, ["info", f"--model={DEMO}"])
    assert found.exit_code == 0
    assert "backbone: 4 layers, width 128, 4 query heads, 2 KV heads, MLP 384" in found.output
    assert "32 codebooks of 2048 codes, context 2048" in found.output


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["serve", "--grpc-port=8000"], 2, "must differ"),
        (["serve", "--kv-memory=much"], 2, "--kv-memory': 'much'"),
        (["frames", "Hello.", "--max-frames=2001"], 2, "--max-frames"),
        (["frames", "Hello.", "--voices=nowhere"], 1, "no voices at nowhere"),
        (["info", "--model=nowhere"], 1, "no model at nowhere"),
        (
            ["prepare", "made", "--weights=nowhere", "--tokenizer=a", "--mimi=b", "--silentcipher=c"],
            2,
            "'nowhere' does",
        ),
    ],
)
def test_what_cannot_be_is_said(command: list[str], code: int, words: str) -> None:
    found = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert found.exit_code == code
    assert words in found.output


@pytest.mark.server
def test_the_demo_says_in_a_line_why_it_cannot_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["speak", "--model=nowhere"])
    with pytest.raises(SystemExit, match="error: misotts serve ended with status 1"):
        speak.main()
