"""Options that `misotts serve` refuses before it starts anything."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from misotts.cli.main import app


def error_of(model: Path, *options: str) -> str:
    """Run `misotts serve`, which must refuse to start; return what it prints."""
    run = CliRunner().invoke(app, ["serve", f"--model={model}", *options])
    assert run.exit_code == 1
    return run.stderr.rstrip("\n")


def test_a_start_that_cannot_succeed_is_refused_in_one_line(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned_text: Callable[..., None]
) -> None:
    reference = "--allow-reference-key"
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    refused = {
        "no model": error_of(tmp_path / "nowhere", reference),
        "no key": error_of(demo_folder),
        "no voices": error_of(demo_folder, f"--voices={tmp_path}/nowhere", reference),
        "no run folder": error_of(demo_folder, reference).replace(str(folder), "TMPDIR"),
    }
    for label, text in refused.items():
        assert text.startswith("error: ")
        assert "\n" not in text
        pinned_text(text.replace(str(tmp_path), "FOLDER"), label)
