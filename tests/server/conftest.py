"""Servers on the random model, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from misotts.serve.local import RunningServer, running_server
from misotts.synthesizer import Synthesizer
from misotts_client import Client

MAX_STREAMS = 8
VOICE_TEXT = "This is how I sound."


@pytest.hookimpl(tryfirst=True)  # before -m deselects items
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("server")


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one voice, `ann`: 1.5 s of a gliding tone."""
    folder = tmp_path_factory.mktemp("voices")
    time = np.arange(36_000) / 24_000
    soundfile.write(folder / "ann.wav", 0.3 * np.sin(2 * np.pi * (150 + 100 * time) * time), 24_000)
    (folder / "ann.txt").write_text(VOICE_TEXT)
    return folder


@pytest.fixture(scope="session")
def key() -> bytes:
    """The watermark's key of both shared servers."""
    return bytes([160, 3, 77, 255, 12])


@pytest.fixture(scope="session")
def key_options(key: bytes, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("key") / "key"
    file.write_text(key.hex() + "\n")
    return ["--no-allow-reference-key", f"--watermark-key-file={file}"]


@pytest.fixture(scope="session")
def server(demo_folder: Path, voices: Path, key_options: list[str]) -> Iterator[RunningServer]:
    """The server that most tests share."""
    options = [f"--voices={voices}", f"--max-streams={MAX_STREAMS}", "--streams-per-address=200"]
    with running_server(demo_folder, *options, *key_options) as running:
        yield running


@pytest.fixture(scope="session")
def eager_server(demo_folder: Path, key_options: list[str]) -> Iterator[RunningServer]:
    """A server on the eager engine.

    No test has more than `MAX_STREAMS` utterances at once here, and low slots are taken first, so that a test may use
    slot `MAX_STREAMS` of the later stages for streams of its own.
    """
    options = ["--backbone=torch", "--depth=torch", f"--max-streams={MAX_STREAMS + 1}"]
    with running_server(demo_folder, *options, *key_options) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def synthesizer(demo_folder: Path, voices: Path, key: bytes) -> Iterator[Synthesizer]:
    torch.set_num_threads(1)
    with Synthesizer.load(demo_folder, voices, key) as loaded:
        yield loaded


@pytest.fixture
def busy_streams(server: RunningServer) -> Callable[[], int]:
    """Return the number of unfinished requests and utterances, by `/ready`."""
    return lambda: int(server.readiness()[1]["streams"])
