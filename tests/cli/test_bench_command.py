"""Commands of other packages: mounted where the package is installed, absent with a reason where it is not."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from misotts.cli import bench

runner = CliRunner()


def mounted(monkeypatch: pytest.MonkeyPatch, target: str) -> typer.Typer:
    entry = EntryPoint("measure", target, bench.GROUP)
    monkeypatch.setattr(bench, "entry_points", lambda group: [entry])
    app = typer.Typer()
    app.command("other")(lambda: None)
    bench.mount(app)
    return app


def test_a_command_of_another_package_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = runner.invoke(mounted(monkeypatch, "benchmarks.command:capacity"), ["measure", "--help"])
    assert found.exit_code == 0
    assert "--callers" in found.output


def test_a_command_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = runner.invoke(mounted(monkeypatch, "no_such_package.command:app"), ["measure", "--rate=1", "file"])
    assert found.exit_code == 1
    assert "no_such_package/" in found.output


def test_a_missing_library_of_a_package_is_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "needy_command.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        mounted(monkeypatch, "needy_command:app")
