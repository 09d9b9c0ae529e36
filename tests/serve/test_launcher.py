"""Options that `misotts serve` refuses before it starts anything."""

import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from misotts.cli.main import app
from misotts.serve.local import free_ports


def error_of(model: Path, *options: str) -> str:
    """Run `misotts serve`, which must refuse to start; return what it prints."""
    run = CliRunner().invoke(app, ["serve", f"--model={model}", *options])
    assert run.exit_code == 1
    return run.stderr.rstrip("\n").split("\n")[-1]


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


def test_what_the_gateway_refuses_ends_the_start_before_triton(
    demo_folder: Path, tmp_path: Path, pinned_text: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("misotts.serve.launcher.TritonServer", None)
    ports = [f"--{name}-port={port}" for name, port in zip(("grpc", "http", "ready"), free_ports(3), strict=True)]
    options = [*ports, "--host=127.0.0.1", "--allow-reference-key"]
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        in_use = error_of(demo_folder, *options, f"--grpc-port={port}").replace(str(port), "PORT")
    refused = {
        "port in use": in_use,
        "no such host": error_of(demo_folder, *options, "--host=nowhere.invalid"),
        "no keys": error_of(demo_folder, *options, f"--api-keys={tmp_path}/nowhere"),
    }
    for label, text in refused.items():
        assert text.startswith("error: gateway: ")
        pinned_text(text.replace(str(tmp_path), "FOLDER"), label)
