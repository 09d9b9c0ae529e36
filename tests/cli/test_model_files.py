"""Files of a model folder that are missing, a folder, not permitted or damaged: every command says so in one line. What
`prepare` writes respects the umask, and the pickled checkpoints that MisoTTS's own loader takes are taken."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from misotts.cli.main import app

NOBODY = 65534


@pytest.fixture
def model(demo_folder: Path) -> Iterator[Path]:
    """A copy of the random model below a folder that every user may enter."""
    with TemporaryDirectory(prefix="models-") as folder:
        os.chmod(folder, 0o755)
        copy = Path(shutil.copytree(demo_folder.resolve(), Path(folder, "model")))
        for file in copy.rglob("*.*"):
            file.chmod(0o644)
        yield copy


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def make_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda file: file.unlink(), "is missing"),
    "a folder": (make_folder, "is a folder, not a file"),
    "not permitted": (lambda file: file.chmod(0), "may not be read by this user"),
    "a pipe": (make_pipe, "is not a file"),
    "a link to itself": (make_loop, "Too many levels of symbolic links"),
    "empty": (lambda file: file.write_bytes(b""), ""),
    "cut": (lambda file: os.truncate(file, file.stat().st_size * 2 // 3), ""),
}
READ_BY = {
    "config.json": ("prepare", "info", "frames", "serve"),
    "model.safetensors": ("prepare", "info", "frames", "serve"),
    "tokenizer.json": ("prepare", "frames", "serve"),
    "mimi.safetensors": ("prepare", "serve"),
    "silentcipher/hparams.yaml": ("prepare", "frames", "serve"),
    "silentcipher/enc_c.ckpt": ("prepare", "serve"),
    "silentcipher/dec_m_0.ckpt": ("prepare", "serve"),
}


def arguments(command: str, model: Path) -> list[str]:
    if command == "prepare":
        files = {"tokenizer": "tokenizer.json", "mimi": "mimi.safetensors", "silentcipher": "silentcipher"}
        sources = [f"--{name}={model / file}" for name, file in files.items()]
        return ["prepare", str(model.with_name("made")), f"--weights={model}", *sources]
    options = {"frames": ["Hello.", "--max-frames=1"], "serve": ["--allow-reference-key"]}
    return [command, f"--model={model}", *options.get(command, [])]


@contextmanager
def another_user() -> Iterator[None]:
    """Run the block without root's right to read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.timeout(60)  # opening a pipe would wait for ever
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", READ_BY)
def test_the_reason_is_one_line(name: str, fault: str, model: Path) -> None:
    change, words = FAULTS[fault]
    change(model / name)
    model.parent.chmod(0o777)  # `prepare` writes there
    for command in READ_BY[name]:
        if command == "serve" and not words and name != "config.json":
            continue  # a stage finds damage, and `serve` ends with its line
        with another_user() if fault == "not permitted" else nullcontext():
            run = CliRunner().invoke(app, arguments(command, model))
        lines = [line for line in run.stderr.splitlines() if not line.startswith((" ", "Usage", "Try", "╭", "╰"))]
        assert run.exit_code in (1, 2), (command, run.output, run.exception)
        assert isinstance(run.exception, SystemExit), (command, run.exception)
        if run.exit_code == 1:
            (line,) = lines
            assert Path(name).name in line
            assert words in line
    assert not model.with_name("made").exists()


@pytest.mark.parametrize("command", ["info", "frames", "serve"])
def test_a_file_in_place_of_the_folder(command: str, model: Path) -> None:
    run = CliRunner().invoke(app, arguments(command, model / "model.safetensors"))
    (line,) = run.stderr.splitlines()
    assert run.exit_code == 1
    assert "config.json is missing: what should be its folder is a file" in line


def test_what_prepare_writes_respects_the_umask(model: Path) -> None:
    mask = os.umask(0o022)
    try:
        made = CliRunner().invoke(app, arguments("prepare", model))
    finally:
        os.umask(mask)
    assert made.exit_code == 0, made.stderr
    files = [path for path in model.with_name("made").rglob("*") if path.is_file()]
    assert len(files) == 8
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}


CHECKPOINTS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "beside a counter": lambda weights: {**weights, "epoch": 3},
    "beside a key that is a number": lambda weights: {**weights, 7: "seven", 8: None},
    "under a wrapper, with a prefix": lambda weights: {
        "model": {f"module.{name}": tensor for name, tensor in weights.items()} | {"step": 5},
        "optimizer": {0: {"lr": 0.1}},
    },
    "parameters": lambda weights: {name: torch.nn.Parameter(tensor) for name, tensor in weights.items()},
}


def prepared(model: Path, state: Any, **options: Any) -> Any:
    """Put a pickled checkpoint in place of the weights and prepare it; return the command's result."""
    torch.save(state, model / "model.pt", **options)
    words = arguments("prepare", model)
    words[2] = f"--weights={model / 'model.pt'}"
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_what_misotts_loads_is_taken(case: str, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    assert prepared(model, CHECKPOINTS[case](weights)).exit_code == 0
    found = load_file(model.with_name("made") / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_an_old_pickle_is_taken(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    assert prepared(model, weights, _use_new_zipfile_serialization=False).exit_code == 0


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "module.module."])
def test_a_prefix_is_named(prefix: str, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    run = prepared(model, {prefix + name: tensor for name, tensor in weights.items()})
    (line,) = run.stderr.splitlines()
    assert run.exit_code == 1
    assert f"have the prefix {prefix.removeprefix('module.')!r}" in line
