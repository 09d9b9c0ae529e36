"""Paths that are not plain, and a stderr that is not read: neither changes what the server does."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from misotts.config import FRAME_SAMPLES
from misotts.serve.local import start_server
from misotts_client import Client
from tests.support.models import copy_of


@pytest.mark.parametrize("reader", ["has left", "has stopped", "a full disk"])
def test_any_path_and_any_reader_of_stderr(reader: str, demo_folder: Path, voices: Path, tmp_path: Path) -> None:
    """A drain goes on to its end with status 0, as with `misotts serve 2>&1 | tee log` and Ctrl-C."""
    model = copy_of(demo_folder, tmp_path / "modèle d'Anna $x")
    folder = Path(shutil.copytree(voices, tmp_path / ("stimmen für anna " + "ü" * 60)))
    (folder / "broken.wav").write_bytes(b"no audio")  # a warning of the prompt stage
    (folder / "broken.txt").write_text("No audio.")
    read, write = os.pipe()
    if reader == "a full disk":
        os.close(write)
        write = os.open("/dev/full", os.O_WRONLY)
    elif reader == "has stopped":
        os.set_blocking(write, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write, bytes(4096))
        os.set_blocking(write, True)
    server = start_server(model, [f"--voices={folder}"], stderr=write)
    os.close(write)
    if reader == "has left":
        os.close(read)
    try:
        server.wait_until_ready()
        with Client(server.url) as client, client.stream("A story.", voice="ann", max_audio_ms=8_000) as stream:
            first = next(stream)
            server.process.send_signal(signal.SIGINT if reader == "has left" else signal.SIGTERM)
            samples = len(first.audio) + sum(len(chunk.audio) for chunk in stream)
        assert samples == 100 * FRAME_SAMPLES
        assert server.process.wait(60) == 0
    finally:
        server.process.kill()
        server.process.wait()
