"""`misotts voices add`, `list` and `remove`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from misotts.cli.main import app
from misotts.prompt.voices import Voices
from tests.support.clips import WORDS, tone, write


def run(*words: object, **env: str) -> Result:
    return CliRunner().invoke(app, ["voices", *map(str, words)], env=env)


def test_add_list_remove(folder: Path, clip: Path) -> None:
    added = run("add", "new", clip, "--text", "A long story. " * 10, "--voices", folder)
    assert (added.exit_code, added.output) == (0, "added new, 2.00 s\n")
    listed = run("list", MISOTTS_VOICES=str(folder))
    assert listed.exit_code == 0
    rows = [line.split(maxsplit=3) for line in listed.stdout.splitlines()]
    assert rows[0] == ["ann", "1.50", "s", WORDS]
    assert rows[1][:3] == ["new", "2.00", "s"]
    assert rows[1][3].endswith("story. A long ...")
    removed = run("remove", "new", "--voices", folder)
    assert (removed.exit_code, removed.output) == (0, "removed new\n")
    assert Voices(folder).names() == ["ann"]
    assert run("remove", "ann", "--voices", folder).exit_code == 0
    empty = run("list", "--voices", folder)
    assert (empty.exit_code, empty.stdout, empty.stderr) == (0, "", f"no voices in {folder}\n")


def test_list_prints_what_is_wrong_with_a_voice(folder: Path) -> None:
    write(folder / "ann.flac", tone())
    (folder / "Bob \udcff\x1b[31m.wav").write_bytes(b"")
    (folder / "._ann.wav").write_bytes(b"")
    (folder / "notes.md").write_text("")
    listed = run("list", "--voices", folder)
    assert listed.exit_code == 1
    first, second = listed.stdout.splitlines()
    assert first.startswith(r"'Bob \udcff\x1b[31m'")
    assert "error: must match [a-z0-9_-]{1,64}, got" in first
    assert second.startswith("'ann'  ")
    assert second.endswith("error: the voice 'ann' is not usable: it has more than one clip: ann.wav, ann.flac")


def test_words_are_read_from_a_file_or_from_standard_input(folder: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"\xef\xbb\xbfCaf\xc3\xa9\r\n")
    assert run("add", "new", clip, "--text-file", tmp_path / "words", "--voices", folder).exit_code == 0
    assert Voices(folder).segment("new", 0).text == "Café"
    piped = ["voices", "add", "piped", str(clip), "--text-file", "-", "--voices", str(folder)]
    assert CliRunner().invoke(app, piped, input="From a pipe.").exit_code == 0
    assert Voices(folder).segment("piped", 0).text == "From a pipe."


@pytest.mark.parametrize("options", [[], ["--text", "a", "--text-file", "-"]])
def test_words_are_given_by_exactly_one_option(folder: Path, clip: Path, options: list[str]) -> None:
    result = run("add", "new", clip, *options, "--voices", folder)
    assert result.exit_code == 2
    assert "--text-file" in result.stderr
    assert Voices(folder).names() == ["ann"]


def test_an_error_is_one_line(folder: Path, clip: Path, tmp_path: Path, pinned_text: Callable[..., None]) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    short = write(tmp_path / "short.wav", tone(0.25))
    commands: dict[str, list[Any]] = {
        "name taken": ["add", "ann", clip, "--text", "a"],
        "no words": ["add", "new", clip, "--text", " "],
        "not UTF-8": ["add", "new", clip, "--text-file", tmp_path / "latin"],
        "too short": ["add", "new", short, "--text", "a"],
        "bad name": ["add", "../new", clip, "--text", "a"],
        "no such voice": ["remove", "bob"],
    }
    for label, words in commands.items():
        result = run(*words, "--voices", folder)
        assert (result.exit_code, result.stdout) == (1, "")
        (line,) = result.stderr.splitlines()
        pinned_text(line, label)


def test_an_argument_that_is_not_utf_8_is_refused(folder: Path, clip: Path) -> None:
    command: list[Any] = [sys.executable, "-m", "misotts.cli", "voices", "add", "new", clip, "--text", b"caf\xe9"]
    result = subprocess.run([*command, "--voices", folder], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "the text must be UTF-8, byte 3 is not" in result.stderr
