"""The commands `serve`, `info`, `frames` and `prepare`: sizes, output and wrong options."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from demo import speak
from misotts.cli.main import app
from misotts.cli.serve import parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("20GiB", 20 * 2**30), ("512MiB", 2**29), ("1.5GB", 1_500_000_000), ("7KB", 7000), ("9", 9)]
)
def test_a_size_is_read_in_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "20X", "GiB", "-1GiB", "0", "nanGiB", "infGiB", "1e400"])
def test_a_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="20GiB"):
        parse_size(text)


def test_info_prints_the_sizes_of_the_model(demo_folder: Path, pinned_text: Callable[..., None]) -> None:
    run = CliRunner().invoke(app, ["info", f"--model={demo_folder}"])
    assert run.exit_code == 0
    pinned_text(run.stdout.replace(str(demo_folder), "MODEL"))


def test_frames_prints_a_line_of_codes_per_frame(demo_folder: Path) -> None:
    command = ["frames", "Hello.", f"--model={demo_folder}", "--max-frames=2", "--seed=1"]
    lines, as_json = (CliRunner().invoke(app, [*command, *option]) for option in ([], ["--json"]))
    frames = json.loads(as_json.stdout)
    assert [len(frame) for frame in frames] == [32, 32]
    assert [list(map(int, line.split())) for line in lines.stdout.splitlines()] == frames


@pytest.mark.parametrize("white", ["\n", "\t", "\r\n", "\u00a0", "\u3000"], ids=ascii)
def test_frames_of_a_text_that_begins_with_white_space(white: str, demo_folder: Path) -> None:
    command = ["frames", f"--model={demo_folder}", "--max-frames=2", "--seed=1", "--json"]
    plain, framed = (CliRunner().invoke(app, [*command, f"{space}Hello."]) for space in ("", white))
    assert framed.exit_code == 0
    assert framed.stdout == plain.stdout


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["serve", "--grpc-port=8080"], 2, "must differ"),
        (["serve", "--max-message-mib=1000"], 2, "--max-message-mib"),
        (["serve", "--metrics-port=8002"], 2, "/metrics is on the --ready-port"),
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
def test_wrong_options_are_refused(command: list[str], code: int, words: str) -> None:
    run = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert run.exit_code == code
    assert words in run.output


@pytest.mark.server
def test_the_demo_ends_in_one_line_if_the_server_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["speak", "--model=nowhere"])
    with pytest.raises(SystemExit, match="error: misotts serve ended with status 1"):
        speak.main()
