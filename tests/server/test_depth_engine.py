"""The whole server with its depth decoder in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from convert.depth import convert_depth
from misotts.serve.local import running_server, start_server
from misotts.synthesizer import Synthesizer
from misotts_client import Client, SpeechRequest
from tests.support.depth_folders import copy_of


@pytest.fixture(scope="module")
def onnx_client(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = copy_of(demo_folder, tmp_path_factory.mktemp("onnx") / "demo")
    convert_depth(folder, torch.float32, lambda written, total: None)
    with running_server(folder, "--depth=onnx") as server, Client(server.url) as connected:
        yield connected


def test_it_speaks_like_the_torch_engine(onnx_client: Client, demo_folder: Path) -> None:
    """Eight at once; the same audio means the same frames."""
    requests = [
        SpeechRequest(
            "word " * (1 + 5 * n), seed=n, max_audio_ms=800 + 160 * n, temperature=n % 5 * 0.3, top_k=5 + 290 * n
        )
        for n in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        spoken = list(pool.map(onnx_client.speak, requests))
    with Synthesizer.load(demo_folder) as synthesizer:
        for request, speech in zip(requests, spoken, strict=True):
            np.testing.assert_allclose(speech.audio, synthesizer.speak(request), rtol=0, atol=1e-5)


def test_a_missing_engine_is_said_at_once(demo_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = start_server(copy_of(demo_folder, tmp_path / "demo"), ["--depth=onnx"])
    assert server.process.wait(timeout=20) == 1
    assert "no engine at" in capfd.readouterr().err


def test_the_graph_engine_speaks_like_the_torch_engine(demo_folder: Path) -> None:
    """On the CPU its code runs uncaptured."""
    requests = [SpeechRequest("word " * (1 + 9 * n), seed=n, max_audio_ms=960, top_k=5 + 290 * n) for n in range(4)]
    with (
        running_server(demo_folder, "--backbone=graph", "--max-streams=4") as server,
        Client(server.url) as client,
        ThreadPoolExecutor(4) as pool,
        Synthesizer.load(demo_folder) as synthesizer,
    ):
        for request, speech in zip(requests, pool.map(client.speak, requests), strict=True):
            np.testing.assert_allclose(speech.audio, synthesizer.speak(request), rtol=0, atol=1e-5)
