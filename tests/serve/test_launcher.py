"""Options that `misotts serve` refuses before it starts anything."""

import os
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

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
        "no run folder": re.sub(
            "it is [0-9]+", "it is LENGTH", error_of(demo_folder, reference).replace(str(folder), "TMPDIR")
        ),
    }
    for label, text in refused.items():
        assert text.startswith("error: ")
        assert "\n" not in text
        pinned_text(text.replace(str(tmp_path), "FOLDER"), label)


def full(_: object) -> object:
    return SimpleNamespace(free=2**20, f_flag=0)


def noexec(_: object) -> object:
    return SimpleNamespace(free=2**40, f_flag=os.ST_NOEXEC)


TMPDIRS: dict[str, tuple[str, Callable[[object], object] | None, str]] = {
    "a space": ("a b", None, "may have only letters of ASCII"),
    "a quote": ("a'b", None, "may have only letters of ASCII"),
    "a shell's words": ("$;(`", None, "may have only letters of ASCII"),
    "a letter beyond ASCII": ("ü", None, "may have only letters of ASCII"),
    "too long for a socket": ("long" * 30, None, "characters long, as a socket's path is limited"),
    "full": ("full", full, "has 1 MiB free; 64 MiB are needed"),
    "noexec": ("noexec", noexec, "is mounted noexec"),
}


@pytest.mark.parametrize("case", TMPDIRS)
def test_a_tmpdir_that_cannot_be_used_is_refused_at_once(
    case: str, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, system, words = TMPDIRS[case]
    with TemporaryDirectory() as above:  # a short path
        folder = Path(above, name)
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        if system is not None:
            monkeypatch.setattr("misotts.serve.run_folder.shutil.disk_usage", system)
            monkeypatch.setattr("misotts.serve.run_folder.shutil.which", lambda _: None)
            monkeypatch.setattr("misotts.serve.run_folder.os.statvfs", system)
        error = error_of(demo_folder, "--allow-reference-key")
    assert error.startswith(f"error: cannot make a run folder in {folder}: it ")
    assert words in error
    assert "\n" not in error


def test_what_the_gateway_refuses_ends_the_start(
    demo_folder: Path, tmp_path: Path, pinned_text: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = tmp_path / "tritonserver"
    triton.write_text("#!/bin/sh\nexec sleep 60\n")
    triton.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
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
