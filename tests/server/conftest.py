"""One real server on the demo model, shared by the tests of this folder."""

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
KEY = bytes([160, 3, 77, 255, 12])
VOICE_TEXT = "This is how I sound."


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one voice, `ann`: 1.5 s of a gliding tone."""
    folder = tmp_path_factory.mktemp("voices")
    time = np.arange(36_000) / 24_000
    soundfile.write(folder / "ann.wav", 0.3 * np.sin(2 * np.pi * (150 + 100 * time) * time), 24_000)
    (folder / "ann.txt").write_text(VOICE_TEXT)
    return folder


@pytest.fixture(scope="session")
def server(demo_folder: Path, voices: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    key_file = tmp_path_factory.mktemp("key") / "key"
    key_file.write_text(KEY.hex() + "\n")
    options = [f"--voices={voices}", f"--max-streams={MAX_STREAMS}", f"--watermark-key-file={key_file}"]
    with running_server(demo_folder, "--no-allow-reference-key", *options) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def synthesizer(demo_folder: Path, voices: Path) -> Iterator[Synthesizer]:
    torch.set_num_threads(1)
    with Synthesizer.load(demo_folder, voices, KEY) as loaded:
        yield loaded


@pytest.fixture
def busy_streams(server: RunningServer) -> Callable[[], int]:
    """Return the number of unfinished requests and utterances, by the readiness port."""
    return lambda: int(server.readiness()[1]["streams"])
