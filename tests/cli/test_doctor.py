"""`misotts doctor`: a line for each check, with the mend, and status 1 if something will fail."""

import resource
import socket
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from misotts.cli.doctor import CHECKS
from misotts.cli.main import app
from misotts.engines.compiled.library import library
from misotts.serve.local import free_ports
from misotts.serve.settings import Ports

Usage = namedtuple("Usage", "total used free")


def examine(model: Path, *options: str) -> Result:
    ports = [f"--{name}-port={port}" for name, port in zip(("grpc", "http", "ready"), free_ports(3), strict=True)]
    words = ["doctor", f"--model={model}", "--host=127.0.0.1", *ports, "--allow-reference-key", *options]
    return CliRunner().invoke(app, words, env={"MISOTTS_WATERMARK_KEY": ""})


def failed(run: Result) -> str:
    """Return the one line of a check that failed."""
    assert run.exit_code == 1
    lines = run.stdout.splitlines()
    assert len(lines) == len(CHECKS)
    (line,) = (line for line in lines if line.startswith("FAIL"))
    assert "; mend: " in line
    return line


def test_a_machine_that_will_do(demo_folder: Path, folder: Path) -> None:
    run = examine(demo_folder, f"--voices={folder}")
    assert run.exit_code == 0, run.stdout
    assert [line[:6] for line in run.stdout.splitlines()] == ["ok    "] * len(CHECKS)
    assert f"1 in {folder}" in run.stdout


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what loads networks."""
    for name in ("model", "driver", "C++ compiler"):
        monkeypatch.setitem(CHECKS, name, lambda _: "left out")


@pytest.mark.usefixtures("quick")
def test_the_ports_of_all_servers_of_a_host_are_checked(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def servers(*options: str) -> Result:
        words = ["doctor", f"--model={demo_folder}", "--host=127.0.0.1", "--allow-reference-key", *options]
        return CliRunner().invoke(app, words, env={"MISOTTS_WATERMARK_KEY": ""})

    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(Ports, "ready", taken.getsockname()[1] - 70)
        assert f"port {taken.getsockname()[1]} of" in failed(servers("--gpu=0", "--gpu=7"))
        assert "8001, 8080, " in servers("--gpu=0").stdout
        assert "8031, 8110, " in servers("--gpu=3").stdout
    assert servers("--gpu=0", "--gpu=1", "--grpc-port=9000").exit_code == 2


@pytest.mark.usefixtures("quick")
def test_what_will_fail_is_named(demo_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "watermark key" in failed(examine(demo_folder, "--no-allow-reference-key"))
    assert "voices" in failed(examine(demo_folder, f"--voices={folder}/nowhere"))
    (folder / "bob.txt").write_text("No clip.")
    assert "'bob' has no clip" in failed(examine(demo_folder, f"--voices={folder}"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1: Address already in use" in failed(
            examine(demo_folder, f"--http-port={port}")
        )
    with monkeypatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _: (64, 64))
        assert "64 files may be open" in failed(examine(demo_folder))
    with monkeypatch.context() as patch:
        patch.setattr("misotts.cli.doctor.time.time", lambda: 0.0)
        assert "clock" in failed(examine(demo_folder))
    with monkeypatch.context() as patch:
        patch.setattr("misotts.serve.tritonserver.importlib.util.find_spec", lambda _: None)
        patch.setattr("misotts.serve.tritonserver.shutil.which", lambda _: None)
        assert "nvidia-pytriton wheel" in failed(examine(demo_folder))
    docker = Usage(2**26, 0, 2**26)
    with monkeypatch.context() as patch:
        others = Usage(0, 0, 2**40)
        patch.setattr("misotts.cli.doctor.shutil.disk_usage", lambda path: docker if path == "/dev/shm" else others)
        assert "--shm-size 1g" in failed(examine(demo_folder))


def test_without_a_compiler_the_default_engine_cannot_be_made(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKS, "model", lambda _: "left out")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for command, missing in {"no-such-compiler": "no-such-compiler", "no-such-cache g++": "no-such-cache"}.items():
        library.cache_clear()
        monkeypatch.setenv("CXX", command)
        line = failed(examine(demo_folder))
        assert line.startswith(f"FAIL  C++ compiler   the compiled engine cannot be made: {missing} is not installed: ")
    monkeypatch.setenv("CXX", "nice g++")
    assert "C++ compiler   it has made" in examine(demo_folder).stdout
    library.cache_clear()


def test_a_model_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECKS, "driver", lambda _: "left out")
    assert "no model at" in failed(examine(tmp_path))
